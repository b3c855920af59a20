"""`inspect_file` on checkpoints as people save them: parts, training states, pruned, sparse and quantized weights."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import sparsify_fx
from sparsify_fx.checkpoints.checksums import SealingStream
from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export import FileReport, LayerRow, inspect_file


def sparse(*shape: int) -> Tensor:
    weight = torch.randn(*shape)
    return torch.where(weight.abs() < 1, torch.zeros(()), weight)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def trained(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 12)).sum().backward()
    optimizer.step()
    return optimizer


def inspected(path: Path, content: Any) -> FileReport:
    torch.save(content, path / "m.pt")
    return inspect_file(path / "m.pt")


def names(report: FileReport) -> list[str]:
    return [row.name for row in report.layers]


def rows(report: FileReport) -> dict[str, LayerRow]:
    return {row.name: row for row in report.layers}


KEYS = ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (
            lambda sd, opt: {"epoch": 3, "ema": sd, "optim": opt},
            "optimizer state (optim)",
        ),
        (lambda sd, opt: {"a": opt, "z": {"state_dict": sd}}, "optimizer state (a)"),
        (
            lambda sd, opt: {"optimizer_states": [opt, opt], "state_dict": sd},
            "optimizer_states.0, optimizer_states.1",
        ),
        (
            lambda sd, opt: {
                "o": {"generator": opt, "loss": torch.tensor(2.0)},
                "m": sd,
            },
            "single numbers (o.loss)",
        ),
        (lambda sd, opt: [opt, sd], "optimizer state (0)"),
        (
            lambda sd, opt: {"m": sd, "rng": torch.get_rng_state()},
            "generator state (rng)",
        ),
        (
            lambda sd, opt: {
                "m": sd,
                "s": {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5},
            },
            "gradient scaler",
        ),
        (
            lambda sd, opt: {"m": sd, "args": Namespace(lr=0.1), "where": Path("x")},
            "Python objects (args, where)",
        ),
        (
            lambda sd, opt: {
                "m": sd,
                "o": {
                    "state.0.weight.exp_avg": torch.ones(4, 4),
                    "param_groups.0.lr": 0.1,
                },
            },
            "optimizer state (o)",
        ),
    ],
)
def test_states_of_a_training_are_never_the_model(
    tmp_path: Path, wrap: Callable[..., Any], kind: str
) -> None:
    model = network()
    report = inspected(tmp_path, wrap(model.state_dict(), trained(model).state_dict()))
    assert (names(report), report.weights) == (KEYS, 128)
    (note,) = report.notes
    assert note.startswith("not shown: ")
    assert kind in note


def test_an_optimizer_alone_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"no state dict \(not shown: optimizer state \(the whole file\)\)",
    ):
        inspected(tmp_path, trained(network()).state_dict())


def test_a_schedule_with_tensors_is_not_shown(tmp_path: Path) -> None:
    optimizer = trained(model := network())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    state = schedule.state_dict() | {"base_lrs": torch.ones(2)}
    assert (
        names(
            inspected(tmp_path, {"model": model.state_dict(), "lr_schedulers": [state]})
        )
        == KEYS
    )


def test_our_own_checkpoints_show_the_model_alone(tmp_path: Path) -> None:
    sparsify_fx.apply(model := network(), "lrr", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=2)
    scheduler_state = scheduler.state_dict()
    scheduler_state["snapshots"] = {"rewind": model.state_dict()}
    state = {
        "epoch": 1,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler_state,
    }
    report = inspected(tmp_path, state)
    assert names(report) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert "Scheduler (scheduler)" in report.notes[0]


def test_all_parts_are_shown_with_prefixes(tmp_path: Path) -> None:
    state = network().state_dict()
    report = inspected(tmp_path, {"ema": state, "model": state, "epoch": 1})
    assert names(report) == [
        f"{part}.{key}" for part in ("ema", "model") for key in KEYS
    ]
    assert report.weights == 2 * 128
    assert (
        "all 2 parts, in weights: ema 128, model 128; ema, model have equal names and shapes"
        in report.notes[0]
    )
    assert "all 2 parts" in str(report.table().caption)
    two = inspected(
        tmp_path,
        {
            "encoder": nn.Linear(4, 3).state_dict(),
            "decoder": nn.Linear(3, 4).state_dict(),
        },
    )
    assert names(two) == [
        "encoder.weight",
        "encoder.bias",
        "decoder.weight",
        "decoder.bias",
    ]
    listed = inspected(tmp_path, {"models": [state, state]})
    assert names(listed) == [f"models.{part}.{key}" for part in (0, 1) for key in KEYS]
    deep = inspected(
        tmp_path,
        {
            "a": {"net": state},
            "ema": {"decay": 0.9, "shadow_params": [torch.ones(2, 2)]},
        },
    )
    assert names(deep) == [*(f"a.net.{key}" for key in KEYS), "ema.shadow_params.0"]


def test_nesting_without_end_is_refused_in_words(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"w": torch.ones(2, 2)}
    loop["self"] = loop
    assert names(inspected(tmp_path, loop)) == ["w"]
    many: list[Any] = [{"w": torch.ones(2, 2)}]
    deep: Any = {"w": torch.ones(2, 2)}
    for _ in range(70):
        many, deep = [many, many], {"k": deep}
    for content in ({"x": many}, deep):
        with pytest.raises(CheckpointError, match="nested too deeply or too often"):
            inspected(tmp_path, content)


@pytest.mark.parametrize("form", ["torch", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "ema.", "module.net."])
def test_a_pruned_weight_is_one_weight(tmp_path: Path, form: str, prefix: str) -> None:
    model = nn.ModuleDict({"fc": nn.Linear(12, 10), "rnn": nn.LSTM(5, 4)})
    prune.random_unstructured(model["fc"], "weight", 0.5)  # type: ignore[no-untyped-call]
    prune.random_unstructured(model["rnn"], "weight_ih_l0", 0.25)  # type: ignore[no-untyped-call]
    state = {
        f"{prefix}{key}": value.contiguous()
        for key, value in model.state_dict().items()
    }
    path = tmp_path / "m"
    (save_file if form == "safetensors" else torch.save)(state, path)
    found = rows(inspect_file(path))
    assert len(found) == 6
    fc, rnn = found[f"{prefix}fc.weight"], found[f"{prefix}rnn.weight_ih_l0"]
    assert (fc.shape, fc.nonzeros, fc.bytes_dense, fc.bytes_stored, fc.prunable) == (
        (10, 12),
        60,
        480,
        960,
        True,
    )
    assert (rnn.size, rnn.nonzeros) == (80, 60)


def test_a_mask_of_another_shape_is_no_mask(tmp_path: Path) -> None:
    report = inspected(
        tmp_path, {"w_orig": torch.ones(4, 4), "w_mask": torch.ones(2, 2)}
    )
    assert names(report) == ["w_orig", "w_mask"]


def test_parametrizations(tmp_path: Path) -> None:
    first = nn.Linear(6, 4)
    with torch.no_grad():
        first.weight[:, :3] = 0
    model = nn.Sequential(
        parametrizations.weight_norm(first),
        parametrizations.spectral_norm(nn.Linear(6, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4), use_trivialization=False),
    )
    state = model.state_dict() | {
        "old.weight_g": torch.ones(3, 1),
        "old.weight_v": torch.eye(3),
    }
    state |= {
        "ao.parametrizations.weight.original": torch.ones(4, 4),
        "ao.parametrizations.weight.0.mask": torch.eye(4),
    }
    found = rows(inspected(tmp_path, state))
    assert (found["0.weight"].shape, found["0.weight"].nonzeros) == ((4, 6), 12)
    assert (found["1.weight"].size, found["1.weight"].encoding) == (24, "parametrized")
    assert (found["old.weight"].nonzeros, found["ao.weight"].nonzeros) == (3, 4)
    assert found["2.parametrizations.weight.original"].shape == (
        4,
        4,
    )  # whose weight is another one
    assert len([row for row in found.values() if row.prunable]) <= 6


W = torch.tensor(
    [
        [0.0, 2.0, 0.0, 4.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [3.0, 0.0, -0.0, 1.0],
    ]
)
TWICE = [
    [0, 0, 0, 1, 2, 3, 3],
    [1, 1, 3, 2, 2, 0, 3],
]  # one place twice, and one with a zero
SIXTEEN = {
    "coo": lambda: W.to_sparse(),
    "csr": lambda: W.to_sparse_csr(),
    "csc": lambda: W.to_sparse_csc(),
    "bsr": lambda: W.to_sparse_bsr((2, 2)),
    "bsc": lambda: W.to_sparse_bsc((2, 2)),
    "twice": lambda: torch.sparse_coo_tensor(
        torch.tensor(TWICE), torch.tensor([1.0, 1, 4, 1, 0, 3, 1]), (4, 4)
    ),
    "float16": lambda: W.half(),
    "bfloat16": lambda: W.bfloat16(),
    "float8_e4m3fn": lambda: W.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda: W.to(torch.float8_e5m2),
    "float8_e4m3fnuz": lambda: W.to(torch.float8_e4m3fnuz),
    "float64": lambda: W.double(),
}
NOT_PRUNABLE = {
    "uint16": lambda: W.to(torch.uint16),
    "uint32": lambda: W.to(torch.uint32),
    "uint64": lambda: W.to(torch.uint64),
    "bool": lambda: W != 0,
    "complex64": lambda: W.to(torch.complex64),
    "int8": lambda: W.to(torch.int8),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("name", [*SIXTEEN, *NOT_PRUNABLE])
def test_layouts_and_types(tmp_path: Path, name: str) -> None:
    tensor = {**SIXTEEN, **NOT_PRUNABLE}[name]()  # type: ignore[no-untyped-call]
    (row,) = inspected(tmp_path, {"w": tensor}).layers
    assert (row.shape, row.nonzeros, row.prunable) == ((4, 4), 5, name in SIXTEEN)
    assert row.dtype == (name if tensor.layout is torch.strided else "float32")
    assert row.bytes_dense == 16 * tensor.dtype.itemsize
    if tensor.layout is not torch.strided:
        assert row.encoding == ("coo" if name == "twice" else name)
        assert row.bytes_stored > 20
    elif name.startswith(("float8", "uint")):
        save_file({"w": tensor}, tmp_path / "m.safetensors")
        assert inspect_file(tmp_path / "m.safetensors").layers[0].nonzeros == 5


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per:UserWarning", "ignore:TypedStorage:UserWarning"
)
def test_quantized_tensors_are_zero_at_the_zero_point(tmp_path: Path) -> None:
    zero_points = torch.tensor([0, 3, 7, 200])
    state = {
        "tensor": torch.quantize_per_tensor(W, 0.5, 7, torch.quint8),
        "channel": torch.quantize_per_channel(
            W, torch.full((4,), 0.5), zero_points, 0, torch.quint8
        ),
    }
    found = rows(inspected(tmp_path, state))
    assert [
        (row.nonzeros, row.prunable, row.bytes_dense) for row in found.values()
    ] == [(5, True, 16)] * 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemi:UserWarning")
def test_two_of_four_tensors(tmp_path: Path) -> None:
    from torch.sparse import SparseSemiStructuredTensorCUTLASS
    from torch.sparse._semi_structured_conversions import (
        sparse_semi_structured_from_dense_cutlass,
    )

    weight = torch.randn(32, 64, dtype=torch.float16)
    weight.view(32, 16, 4)[:, :, 1:3] = 0
    weight[0] = 0
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)  # type: ignore[no-untyped-call]
    tensor = SparseSemiStructuredTensorCUTLASS(
        weight.shape, packed, meta, None, None, None
    )
    (row,) = inspected(tmp_path, {"w": tensor}).layers
    assert (row.shape, row.nonzeros, row.encoding, row.prunable) == (
        (32, 64),
        31 * 32,
        "2:4",
        True,
    )
    assert row.bytes_stored < row.bytes_dense


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_shown_one_by_one(tmp_path: Path) -> None:
    nested = torch.nested.as_nested_tensor(
        [torch.ones(2, 3), torch.zeros(4, 3)], layout=torch.strided
    )
    found = rows(inspected(tmp_path, {"w": nested}))
    assert [(row.name, row.shape, row.nonzeros) for row in found.values()] == [
        ("w.0", (2, 3), 6),
        ("w.1", (4, 3), 0),
    ]


def test_tensors_without_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"m\.pt: b: has no data: it was saved from the meta device",
    ):
        inspected(
            tmp_path, {"a": torch.ones(2, 2), "b": torch.empty(3, 3, device="meta")}
        )


def test_entries_that_share_places_cost_nothing(tmp_path: Path) -> None:
    """A small file can hold a tensor of any size."""
    wide = torch.ones(3, 1).expand(3, 10**12)
    (row,) = inspected(tmp_path, {"w": wide}).layers
    assert (row.nonzeros, row.density, row.bytes_dense) == (
        3 * 10**12,
        1.0,
        12 * 10**12,
    )
    overlapping = torch.ones(3000).as_strided((1000, 1000, 1000), (1, 1, 1))
    for state in ({"w": overlapping}, {"w_orig": wide, "w_mask": wide}):
        with pytest.raises(
            CheckpointError,
            match=r"w: its .* entries (share places|overlap) in the file",
        ):
            inspected(tmp_path, state)


@pytest.mark.parametrize("place", [0.02, 0.4, 0.8, 0.999, -1, -30])
def test_a_flipped_bit_in_a_sealed_file_is_told(tmp_path: Path, place: float) -> None:
    path = tmp_path / "m.pt"
    with path.open("wb") as stream:
        sealing = SealingStream(stream)
        torch.save({"model": {"w": torch.ones(64, 64)}}, sealing)  # type: ignore[arg-type]
        sealing.seal()
    assert inspect_file(path).nonzeros == 4096
    data = bytearray(path.read_bytes())
    data[int(place) if place < 0 else int(place * len(data))] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged|not a whole"):
        inspect_file(path)


def test_safetensors_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no time is more than one of the big tensors held."""
    import weakref

    from sparsify_fx.onnx_export.inspection import inspect_checkpoint

    save_file(
        {f"{place}.w": sparse(8, 8) for place in range(20)}, tmp_path / "m.safetensors"
    )
    held: list[weakref.ref[Tensor]] = []
    most = 0
    count = inspect_checkpoint.count_any  # type: ignore[attr-defined]

    def counting(tensor: Tensor) -> Any:
        nonlocal most
        held.append(weakref.ref(tensor))
        most = max(most, sum(each() is not None for each in held))
        return count(tensor)

    monkeypatch.setattr(inspect_checkpoint, "count_any", counting)
    assert len(inspect_file(tmp_path / "m.safetensors").layers) == 20
    assert (len(held), most <= 2) == (20, True)
