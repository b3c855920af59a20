"""Models that `fully_shard` has spread over two and four processes."""

from __future__ import annotations

import pytest

from tests.common import swept
from tests.distributed.conftest import Results
from tests.distributed.fsdp_cases import OPTIONS, OTHERS, SHARDED

pytestmark = pytest.mark.slow

both_sizes = pytest.mark.parametrize("ranks", [2, *swept([4])])
VECTORS = ("grasp", "random", "signin", "snip", "synflow")
STILL = (*VECTORS, "dense", "full")


@pytest.mark.parametrize(
    ("method", "ranks"),
    [
        ("lrr", 2),
        *swept((method, 2) for method in ("signin", "gmp", "rigl", *OTHERS, *OPTIONS)),
        *swept((method, 4) for method in (*SHARDED, *OPTIONS)),
    ],
)
def test_masks_of_shards_are_those_of_one_process(
    results: Results, ranks: int, method: str
) -> None:
    """To the bit, after every step; weights but for the order of sums, in float64."""
    for seen in results(f"fsdp {method}", ranks):
        assert seen["differing"] == 0
        assert seen["broken"] == 0, "what is pruned is zero, and rests"
        assert seen["far"] < 1e-13
        assert seen["sharded"]
        assert seen["keys"]
        assert seen["living"] == (method in VECTORS)
        assert (seen["changes"] == 0) == (method in STILL)


@pytest.mark.sweep
@both_sizes
def test_the_ways_out_gather(results: Results, ranks: int) -> None:
    for seen in results("fsdp_ways_out", ranks):
        *exact, file = seen["far"]
        assert max(exact) < 1e-13
        assert file < 1e-5
        assert seen["equal"]
        assert seen["keys"]
        assert seen["still"]
        assert seen["plain"]
        assert seen["refused"][0] == "ExportError"
        assert "sparsify_fx.distributed.gathered(model)" in seen["refused"][1]


@pytest.mark.sweep
@both_sizes
def test_a_weight_can_be_read_outside_of_a_forward(
    results: Results, ranks: int
) -> None:
    for seen in results("fsdp_reads", ranks):
        assert seen == {"lrr+signin": [True, True, True], "signin": [True, True, True]}


@pytest.mark.sweep
@both_sizes
def test_states_of_one_process_load_into_shards(results: Results, ranks: int) -> None:
    for seen in results("fsdp_loads", ranks):
        assert seen == {"lrr+signin": [True, True], "signin": [True, True]}


@both_sizes
def test_thresholds_over_shards_are_exact(results: Results, ranks: int) -> None:
    for seen in results("fsdp_selection", ranks):
        assert seen == {"differing": 0, "counted": True, "large": True}


@both_sizes
def test_what_cannot_be_trained_is_refused(results: Results, ranks: int) -> None:
    words = {
        "before": ("LayerError", "it on the plain model first"),
        "tensor parallel": ("LayerError", "is a DTensor"),
        "columns": ("SchedulerError", "which shards rows"),
        "by hand": ("SchedulerError", "that fully_shard does not manage"),
        "living": ("SchedulerError", "storage='auto'"),
        "early": ("SchedulerError", "build it after sparsify_fx.apply(model) and"),
        "muon": ("SchedulerError", "before you shard the model"),
    }
    for seen in results("fsdp_refusals", ranks):
        for name, (kind, text) in words.items():
            assert seen[name][0] == kind, (name, seen[name])
            assert text in seen[name][1], (name, seen[name])


@pytest.mark.sweep
@both_sizes
def test_batch_norm_is_rewound_in_shards(results: Results, ranks: int) -> None:
    assert results("fsdp_norms", ranks) == [True] * ranks
