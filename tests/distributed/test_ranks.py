"""Two and four processes with data of their own train one model: equal masks, and errors that every rank hears."""

from __future__ import annotations

import pytest

from sparsify_fx.errors import DistributedError
from tests.common import swept
from tests.distributed.cases import DATA_METHODS, LIVING, METHODS
from tests.distributed.conftest import Results

pytestmark = pytest.mark.slow

both_sizes = pytest.mark.parametrize("ranks", [2, *swept([4])])


@both_sizes
@pytest.mark.parametrize("method", METHODS)
def test_parameters_masks_and_optimizer_state_are_equal_after_every_step(
    results: Results, ranks: int, method: str
) -> None:
    for seen in results(f"train {method}", ranks):
        assert seen["differing"] == []
        assert seen["steps"] >= 12
        assert seen["nonzeros"] == (8 * 27 + 8 * 36 + 4 * 72) // 2
        assert seen["changes"] > 0 or method in ("snip", "grasp")


@pytest.mark.cross_section("signin-2", "lrr-2", "gmp-2")
@both_sizes
@pytest.mark.parametrize("method", LIVING)
def test_vectors_of_living_entries_are_equal_and_keep_their_lengths(
    results: Results, ranks: int, method: str
) -> None:
    """Parameters, masks and optimizer state; the buckets of DistributedDataParallel have the lengths of the start."""
    for seen in results(f"train living {method}", ranks):
        assert seen["differing"] == []
        assert seen["living"] == [True, True, True]
        assert seen["lengths"]
        assert seen["nonzeros"] == (8 * 27 + 8 * 36 + 4 * 72) // 2
        assert seen["changes"] > 0 or method in ("signin", "random")


@both_sizes
def test_the_options_of_data_parallel_change_nothing(
    results: Results, ranks: int
) -> None:
    for seen in results("wrappers", ranks):
        assert len(seen) >= 3
        assert all(
            found["differing"] == [] and found["changes"] > 0 for found in seen.values()
        )


@both_sizes
@pytest.mark.parametrize("method", DATA_METHODS)
def test_ranks_choose_the_masks_of_the_union_of_their_data(
    results: Results, ranks: int, method: str
) -> None:
    for seen in results("union", ranks):
        from_all, from_one = seen[method]
        assert from_all == 0
        assert from_one > 0, (
            "the data of one rank must give another mask, or the test shows nothing"
        )


@both_sizes
def test_a_mask_that_was_tampered_with_is_found_at_the_next_event(
    results: Results, ranks: int
) -> None:
    for seen in results("tampered", ranks):
        for kind, text, equal in seen.values():
            assert kind == "DistributedError", text
            assert f"the masks of 3.weight on rank {ranks - 1} differ" in text
            assert "before the" in text
            assert "load the last checkpoint" in text
            assert equal == "True"


@both_sizes
def test_a_rank_that_fails_is_heard_by_all(results: Results, ranks: int) -> None:
    *others, last = results("failing", ranks)
    assert last["empty"][0] == "MethodError"
    assert last["raising"] == ["ValueError", "no such class"]
    assert last["late"][0] == "MethodError"
    for seen in others:
        for moment in ("empty", "raising", "late"):
            kind, text = seen[moment]
            assert kind == "DistributedError"
            assert f"rank {ranks - 1} failed at" in text
        assert "batches= is empty" in seen["empty"][1]
        assert "ValueError: no such class" in seen["raising"][1]
    assert all(seen["plain"] and seen["well"] for seen in (*others, last))


@both_sizes
def test_ranks_with_other_weights_are_told_before_anything_changes(
    results: Results, ranks: int
) -> None:
    for seen in results("weights_that_differ", ranks):
        assert seen["error"][0] == "DistributedError"
        assert "torch.manual_seed" in seen["error"][1]
        assert "independent()" in seen["error"][1]
        assert seen["plain"]


@both_sizes
def test_gradients_that_nobody_averages_are_noticed(
    results: Results, ranks: int
) -> None:
    for seen in results("gradients_that_nobody_averages", ranks):
        assert seen["alone"][0] == "DistributedError"
        assert (
            "the weights of 0.weight (m) and 5 other tensors on rank"
            in seen["alone"][1]
        )
        assert (
            "Wrap the model in DistributedDataParallel after apply" in seen["alone"][1]
        )
        assert seen["early"][0] == "LayerError"
        assert "call sparsify_fx.apply on the plain model first" in seen["early"][1]
        assert seen["dense"] == ["none", ""]


@both_sizes
def test_ranks_may_train_models_of_their_own(results: Results, ranks: int) -> None:
    assert (
        results("own_models", ranks)
        == [{"finished": True, "inside": True, "outside": True}] * ranks
    )


@pytest.mark.sweep
def test_each_group_of_replicas_agrees_within_itself(results: Results) -> None:
    masks = [seen["masks"] for seen in results("halves", 4)]
    assert masks[0] == masks[1] != masks[2] == masks[3]


@both_sizes
def test_the_scores_of_a_criterion_that_knows_no_ranks_are_averaged(
    results: Results, ranks: int
) -> None:
    assert results("user_criterion", ranks) == [{"equal": True, "alone": False}] * ranks


@both_sizes
def test_sums_have_the_same_bits_on_every_rank(results: Results, ranks: int) -> None:
    seen = results("sums", ranks)
    assert len({found["digest"] for found in seen}) == 1
    for found in seen:
        assert found["rounded"]
        assert found["count"] == ranks * (ranks + 1) // 2
        assert found["numbers"] == [pytest.approx((ranks - 1) / 20, abs=1e-16), 0.25]
        assert found["none"] is None


@both_sizes
def test_ranks_at_different_places_are_told_where_they_are(
    results: Results, ranks: int
) -> None:
    for kind, text in results("different_places", ranks):
        assert kind == DistributedError.__name__
        assert "rank 0 at a rewind, rank 1 at a pruning" in text


@both_sizes
def test_data_parallel_sends_no_masks(results: Results, ranks: int) -> None:
    for seen in results("ignored_masks", ranks):
        assert seen["sent"] == seen["living"] == []
        assert seen["others"] == 6, "running statistics are sent"
        assert seen["outer"] == 3, (
            "a wrapper around a larger module sends them, as before"
        )
        assert seen["saved"] == 3
        assert seen["left"] == []
        assert not seen["attribute"]


@both_sizes
def test_synchronized_norms_do_not_wait_while_scoring(
    results: Results, ranks: int
) -> None:
    for seen in results("synchronized_norms", ranks):
        assert seen == {
            "as batch norm": 0,
            "equal": True,
            "kinds": ["SyncBatchNorm"],
            "forwards": False,
        }
