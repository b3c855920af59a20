"""Damaged checkpoints: every flipped bit is told, and so is content that no training can have written."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch

from sparsify_fx.checkpoints.checksums import SealingStream, damage
from sparsify_fx.checkpoints.run_files import (
    packed,
    read_checkpoint,
    read_state,
    read_tensors,
)
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train.restore import load_trained
from sparsify_fx.train.run_folder import RunFolder, open_folder
from tests.train.common import quietly, small, write_images

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def flip_bits() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "flip_bits", ROOT / "benchmarks" / "flip_bits.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    data = write_images(folder / "mine.npz")
    return quietly(
        small(data, "method=lrr+signin", "sparsity=0.36", "save_cycles=true"), folder
    ).path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of its files that may be damaged; the data stay where they are."""
    copied = tmp_path / finished.name
    copied.mkdir()
    for file in finished.iterdir():
        if file.is_file():
            (copied / file.name).write_bytes(file.read_bytes())
    return copied


# ---------------------------------------------------------------------- single bits


def test_single_bits_of_a_run(
    flip_bits: ModuleType, finished: Path, tmp_path: Path
) -> None:
    checkpoint = (finished / "checkpoint.pt").read_bytes()
    weights = (finished / "model.safetensors").read_bytes()
    assert flip_bits.flip_all(checkpoint, 60, read_checkpoint, tmp_path) == {
        "error": 60
    }
    assert flip_bits.flip_all(weights, 60, read_tensors, tmp_path) == {"error": 60}
    old = flip_bits.flip_all(
        flip_bits.without_seal(finished / "checkpoint.pt"),
        60,
        read_checkpoint,
        tmp_path,
    )
    assert set(old) <= {"error", "same"}
    assert old["error"] >= 50


@pytest.mark.parametrize("sealed", [True, False])
def test_every_bit_of_the_tables_of_a_small_checkpoint(
    flip_bits: ModuleType, tmp_path: Path, sealed: bool
) -> None:
    with open_folder(tmp_path / "run") as folder:
        folder.save_checkpoint(
            {"epoch": 1, "model": {"w": torch.arange(3.0)}, "rate": 0.1}
        )
        file = folder.path / "checkpoint.pt"
    data = file.read_bytes() if sealed else flip_bits.without_seal(file)
    good, ends, target = read_checkpoint(file), set(), tmp_path / "flipped"
    for bit in range(0, 8 * len(data), 13):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        target.write_bytes(flipped)
        ends.add(flip_bits.outcome(target, good, read_checkpoint))
    assert ends == ({"error"} if sealed else {"error", "same"})


def test_every_bit_of_a_small_state(flip_bits: ModuleType, tmp_path: Path) -> None:
    state = {
        "w": torch.arange(3.0),
        "w.mask": torch.tensor([1, 0, 1], dtype=torch.uint8),
        "n": torch.tensor(7),
    }
    data, target, ends = packed(state), tmp_path / "flipped.safetensors", set()
    for bit in range(0, 8 * len(data), 3):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        target.write_bytes(flipped)
        ends.add(flip_bits.outcome(target, state, read_tensors))
    assert ends <= {"error", "same"}


def test_the_bits_are_spread_over_the_whole_file(flip_bits: ModuleType) -> None:
    chosen = flip_bits.positions(8 * 700_000, 600)
    assert len(chosen) == 600
    assert min(chosen) == 0
    assert max(chosen) >= 8 * 700_000 - 200
    assert sum(bit >= 8 * 699_000 for bit in chosen) > 50


def test_cut_files_and_files_of_other_kinds(run: Path) -> None:
    file, whole = run / "checkpoint.pt", (run / "checkpoint.pt").read_bytes()
    for content in (
        b"",
        b"PK",
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"\0",
        b"\0" * 5000,
        b"{}",
    ):
        file.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"checkpoint\.pt cannot be read .*--force"
        ):
            RunFolder(run).checkpoint()
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match="it holds list"):
        RunFolder(run).checkpoint()


# ---------------------------------------------------------------------- how files are written


def test_a_sealed_checkpoint_is_an_ordinary_torch_file(finished: Path) -> None:
    file = finished / "checkpoint.pt"
    assert damage(file) is None
    assert set(torch.load(file, weights_only=True, mmap=True)) == set(
        read_checkpoint(file)
    )
    assert damage_of_stored(finished / "checkpoint.pt") is None


def damage_of_stored(file: Path) -> str | None:
    """The same file written again by torch alone."""
    again = file.with_name("again.pt")
    torch.save(torch.load(file, weights_only=True), again)
    try:
        return damage(again)
    finally:
        again.unlink()


def test_states_are_written_the_same_in_every_process(finished: Path) -> None:
    state = read_tensors(finished / "model.safetensors")
    data = packed(state)
    assert (
        data
        == packed(dict(reversed(state.items())))
        == (finished / "model.safetensors").read_bytes()
    )
    assert int.from_bytes(data[:8], "little") % 8 == 0
    loaded = safetensors.torch.load(data)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_state_of_0_1_has_no_checksum(run: Path) -> None:
    state = read_tensors(run / "cycle-1.safetensors")
    safetensors.torch.save_file(
        state, run / "cycle-1.safetensors", metadata={"format": "pt"}
    )
    again = read_state(run, cycle=1)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_the_stream_takes_writes_of_any_size_and_only_archives() -> None:
    whole = io.BytesIO()
    torch.save({"a": torch.ones(2)}, whole)
    target = io.BytesIO()
    stream = SealingStream(target)
    for byte in whole.getvalue():
        assert stream.write(bytes([byte])) == 1
    stream.seal()
    at_once = io.BytesIO()
    other = SealingStream(at_once)
    other.write(whole.getvalue())
    other.seal()
    assert target.getvalue() == at_once.getvalue()
    nothing = SealingStream(io.BytesIO())
    nothing.write(b"no archive, but long enough to be one")
    with pytest.raises(ValueError, match="only a zip archive"):
        nothing.seal()


# ---------------------------------------------------------------------- content

Change = Callable[[dict[str, Any]], None]


def set_mask(value: int) -> Change:
    def change(state: dict[str, Any]) -> None:
        next(v for k, v in state["model"].items() if k.endswith("_program.mask"))[
            0, 0
        ] = value

    return change


def fill_mask(state: dict[str, Any]) -> None:
    next(v for k, v in state["model"].items() if k.endswith("_program.mask")).fill_(1)


def set_weight(value: float) -> Change:
    def change(state: dict[str, Any]) -> None:
        next(v for k, v in state["model"].items() if k.endswith("_program.m"))[1, 2] = (
            value
        )

    return change


def set_momentum(state: dict[str, Any]) -> None:
    next(iter(state["optimizer"]["state"].values()))["momentum_buffer"][0] = float(
        "nan"
    )


def put(value: Any, *keys: str) -> Change:
    def change(state: dict[str, Any]) -> None:
        *path, last = keys
        for key in path:
            state = state[key]
        state[last] = value

    return change


def drop(*keys: str) -> Change:
    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_mask(2), "values beside 0 and 1"),
        (set_mask(255), "values beside 0 and 1"),
        (fill_mask, r"was written with \d+ weights, its masks keep \d+"),
        (set_weight(float("nan")), "holds NaN or Inf"),
        (set_weight(float("inf")), "holds NaN or Inf"),
        (set_momentum, "optimizer state holds NaN"),
        (put(7, "epoch"), "is of epoch 7, the schedule has 6"),
        (put(0, "epoch"), "is of epoch 0"),
        (put("6", "epoch"), "is of epoch '6'"),
        (put(5, "epoch"), "ends at step 20, but its schedule stands at step 24"),
        (put(4, "scheduler", "step"), "stands at step 4"),
        (put(25, "scheduler", "step"), "step 25"),
        (put(-1, "scheduler", "step"), "step -1"),
        (put("x", "scheduler", "step"), "does not fit its configuration"),
        (put([], "scheduler"), "no state of the scheduler"),
        (put(None, "optimizer"), "no state of the optimizer"),
        (put(3, "model"), "no state of the model"),
        (put({"a": 1}, "model"), "holds a int as a"),
        (drop("model"), "no state of the model"),
        (drop("scheduler", "fingerprint"), "does not fit its configuration"),
        (drop("optimizer", "state"), "does not fit its configuration"),
        (put({"lr": 1}, "optimizer", "param_groups"), "does not fit its configuration"),
    ],
)
def test_content_that_no_training_wrote(
    run: Path, finished: Path, change: Change, told: str
) -> None:
    file = run / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)  # with right CRCs
    (run / "result.json").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    config = small(
        finished.parent / "mine.npz",
        "method=lrr+signin",
        "sparsity=0.36",
        "save_cycles=true",
    )
    with pytest.raises(CheckpointError, match=f"{told}.*--force"):
        quietly(config, run.parent)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before | {
        ".lock": b""
    }


def test_what_was_infinite_from_the_start_may_be_so(run: Path) -> None:
    from torch import nn

    from sparsify_fx.train.checks import check_model

    net = nn.Linear(2, 2)
    net.register_buffer("bias_of_attention", torch.tensor([0.0, -torch.inf]))
    check_model(net.state_dict(), net)
    with pytest.raises(CheckpointError, match="weight holds NaN"):
        check_model(net.state_dict() | {"weight": torch.full((2, 2), torch.nan)}, net)


def test_other_readers_find_the_damage_too(run: Path) -> None:
    for name, read in {
        "checkpoint.pt": lambda: load_trained(run / "checkpoint.pt"),
        "model.safetensors": lambda: load_trained(run / "model.safetensors"),
        "cycle-1.safetensors": lambda: read_state(run, cycle=1),
    }.items():
        good = (run / name).read_bytes()
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 4
        (run / name).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=name):
            read()
        (run / name).write_bytes(good)
    flipped = bytearray((run / "checkpoint.pt").read_bytes())
    flipped[len(flipped) // 2] ^= 4
    (run / "checkpoint.pt").write_bytes(flipped)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        read_state(run)  # the masks of the end are in there


# ---------------------------------------------------------------------- the files of words


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "3", '"x"', "{}", '{"folder": 1}', "[" * 5000, "\0", "\xff"],
)
@pytest.mark.parametrize("name", ["result.json", "data.json"])
def test_json_of_another_kind(
    run: Path, finished: Path, name: str, content: str
) -> None:
    if name == "data.json" and content in ("{}", '{"folder": 1}'):
        content = '{"digest": 5}'
    (run / name).write_bytes(content.encode("latin-1"))
    config = small(
        finished.parent / "mine.npz",
        "method=lrr+signin",
        "sparsity=0.36",
        "save_cycles=true",
    )
    with pytest.raises(CheckpointError, match=rf"{name}.*--force"):
        quietly(config, run.parent)


@pytest.mark.parametrize(
    "key", ["folder", "epochs", "density", "cycles", "test_accuracy"]
)
@pytest.mark.parametrize("value", [None, "much", [[]], {}, "gone"])
def test_a_result_with_a_wrong_key(
    run: Path, finished: Path, key: str, value: Any
) -> None:
    content = json.loads((run / "result.json").read_text())
    content[key] = value if key != "folder" or value != "much" else 5
    if value == "gone":
        del content[key]
    (run / "result.json").write_text(json.dumps(content))
    config = small(
        finished.parent / "mine.npz",
        "method=lrr+signin",
        "sparsity=0.36",
        "save_cycles=true",
    )
    with pytest.raises(
        CheckpointError,
        match=rf"result\.json: the result has no usable '{key}.*--force",
    ):
        quietly(config, run.parent)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "line 2 of .* is no record of epoch 2"),
        ("[]", "line 2 of"),
        ("\0\0\0\0", "line 2 of"),
        ('{"epoch": 2, "lo', "line 2 of"),
        ('{"epoch": 7}', "line 2 of"),
        ('{"epoch": 2}', "line of epoch 2 has no usable 'run'"),
        (None, "line 2 of"),
    ],
)
def test_a_bad_line_of_metrics(
    run: Path, finished: Path, line: str | None, told: str
) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1:2] = [] if line is None else [line]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "result.json").unlink()
    config = small(
        finished.parent / "mine.npz",
        "method=lrr+signin",
        "sparsity=0.36",
        "save_cycles=true",
    )
    with pytest.raises(CheckpointError, match=told):
        quietly(config, run.parent)


def test_bad_lines_after_the_checkpoint_are_dropped_and_missing_ones_told(
    run: Path, finished: Path
) -> None:
    config = small(
        finished.parent / "mine.npz",
        "method=lrr+signin",
        "sparsity=0.36",
        "save_cycles=true",
    )
    good = (run / "metrics.jsonl").read_text()
    (run / "result.json").unlink()
    (run / "metrics.jsonl").write_text(good + "\0\0\0\n{half")
    assert quietly(config, run.parent).epochs == 6
    assert (run / "metrics.jsonl").read_text() == good
    (run / "result.json").unlink()
    (run / "metrics.jsonl").write_text("".join(good.splitlines(keepends=True)[:4]))
    with pytest.raises(CheckpointError, match=r"holds 4 of the 6 epochs"):
        quietly(config, run.parent)


def test_rows_of_a_later_version_may_hold_more(run: Path, finished: Path) -> None:
    rows = [
        json.loads(line) | {"later": [1]}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "result.json").unlink()
    config = small(
        finished.parent / "mine.npz",
        "method=lrr+signin",
        "sparsity=0.36",
        "save_cycles=true",
    )
    assert quietly(config, run.parent).epochs == 6
