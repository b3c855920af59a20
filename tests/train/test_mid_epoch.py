"""A training that leaves in the middle of an epoch, as a signal asks, and goes on to the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from sparsify_fx.errors import CheckpointError, ConfigError, PreemptedError
from sparsify_fx.train import TrainConfig, train
from sparsify_fx.train.log import Log
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.zoo.models.spec import MODELS, ModelSpec
from tests.common import swept
from tests.train.common import assert_same, outcome, quietly, small, write_images

SETTINGS = ["batch_size=16", "augment={crop_padding: 2, flip: true}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "mine.npz", count=200)


class Noisy(nn.Module):
    """Dropout, and noise out of Python's and numpy's generators, as models of one's own have it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        scale = 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return nn.functional.dropout(x, 0.2) * scale


@pytest.fixture(scope="module", autouse=True)
def noisy() -> None:
    if "noisy" not in MODELS:

        @MODELS.register("noisy")
        def build(spec: ModelSpec) -> nn.Module:
            inputs = spec.in_channels * spec.image_size**2
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(inputs, 32),
                nn.BatchNorm1d(32),
                nn.ReLU(),
                Noisy(),
                nn.Linear(32, spec.num_classes),
            )


class Signals:
    """Sends a signal to this process after so many optimizer steps, as a cluster might."""

    def __init__(self) -> None:
        self.number, self.after = signal.SIGTERM, 0

    def count(self) -> None:
        self.after -= 1
        if self.after == 0:
            os.kill(os.getpid(), self.number)
            # The thread that listens needs a moment; a training that is slower gives it one anyway.
            time.sleep(0.02)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signals]:
    signals, advance = Signals(), Log.advance

    def advance_and_count(self: Log) -> None:
        advance(self)
        signals.count()

    monkeypatch.setattr(Log, "advance", advance_and_count)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield signals
    assert handlers == [
        signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    ]


def leave(config: TrainConfig, runs: Path, sent: Signals, after: int) -> str:
    """What a training says that leaves after so many steps."""
    sent.after = after
    with pytest.raises(PreemptedError) as told:
        train(config, runs_dir=runs, progress=False, tensorboard=False, grace=30)
    return str(told.value)


@pytest.mark.cross_section(
    "lrr+signin-more0", "gmp-more2", "str-more4", "acdc+signin-more6"
)
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lrr+signin", []),
        ("rigl", ["axes.schedule={name: regrow, growth: gradient, every: 0.3}"]),
        ("gmp", []),
        ("pilot", []),
        ("str", []),
        ("l0", []),
        ("acdc+signin", []),
        ("wr", ["ema={decay: 0.9}", "validation=0.1", "batch_size=14"]),
        ("lrr", ["mixup=0.3", "cutmix=0.5", "clip_grad_norm=1", "accumulate=4"]),
    ],
)
def test_left_at_many_steps_and_resumed_ends_with_the_same_bits(
    data: Path, tmp_path: Path, sent: Signals, method: str, more: list[str]
) -> None:
    asked = ["model=noisy", "epochs=4", *SETTINGS, f"method={method}", "sparsity=0.36"]
    config = small(data, *asked, *more)
    expected = outcome(quietly(config, tmp_path / "undisturbed").path)
    rounds = 0
    # Steps of 10 to an epoch: the middle of one, its last but one and its last, and the first of a run.
    for after in (1, 3, 5, 10, 12, 1):
        told = leave(config, tmp_path / "left", sent, after)
        assert "the same command goes on from there" in told
        rounds += 1
    sent.after = 0
    found = outcome(quietly(config, tmp_path / "left").path)
    assert rounds == 6
    assert found[2] == expected[2]
    assert_same(found[1], expected[1])
    assert found[0] == expected[0]


def test_where_it_left_is_told_and_kept(
    data: Path, tmp_path: Path, sent: Signals
) -> None:
    config = small(data, *SETTINGS, "epochs=3", "snapshots_at=[0]", "method=random")
    sent.number = signal.SIGUSR1
    told = leave(config, tmp_path, sent, 13)
    assert told.startswith("SIGUSR1: saved after step 13 of 30; the same command")
    (folder,) = tmp_path.iterdir()
    state = RunFolder(folder).checkpoint()
    assert state is not None
    assert (state["epoch"], state["within"]["step"]) == (1, 3)
    assert state["within"]["totals"][2] == 3 * 16
    assert len(RunFolder(folder).metrics()) == 1
    start = (folder / "epoch-0.safetensors").read_bytes()
    sent.after = 0
    result = quietly(config, tmp_path)
    assert (folder / "epoch-0.safetensors").read_bytes() == start
    assert 0 < result.checkpoint_seconds < 5
    assert len(RunFolder(folder).metrics()) == 3


def test_the_first_ctrl_c_saves_and_the_second_does_not_wait(
    data: Path, tmp_path: Path, sent: Signals
) -> None:
    config = small(data, *SETTINGS, "method=random")
    sent.number, sent.after = signal.SIGINT, 4
    with pytest.raises(KeyboardInterrupt):
        train(config, runs_dir=tmp_path, progress=False, tensorboard=False, grace=30)
    state = RunFolder(next(tmp_path.iterdir())).checkpoint()
    assert state is not None
    assert state["within"]["step"] == 4


def test_without_a_grace_time_signals_are_left_alone(
    data: Path, tmp_path: Path, sent: Signals
) -> None:
    sent.number, sent.after = signal.SIGINT, 4
    config = small(data, *SETTINGS, "method=random")
    # A shell's background jobs ignore Ctrl-C, and so would the tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            quietly(config, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert RunFolder(next(tmp_path.iterdir())).checkpoint() is None


def test_a_signal_in_the_last_step_finishes(
    data: Path, tmp_path: Path, sent: Signals
) -> None:
    config = small(data, *SETTINGS, "method=random")
    sent.after = 20
    result = train(
        config, runs_dir=tmp_path, progress=False, tensorboard=False, grace=30
    )
    assert result.epochs == 2
    assert RunFolder(result.path).result() is not None


def test_checkpoints_every_so_many_steps(data: Path, tmp_path: Path) -> None:
    saved: list[tuple[int, Any]] = []
    save = RunFolder.save_checkpoint

    def noting(self: RunFolder, state: dict[str, Any]) -> None:
        saved.append((state["epoch"], (state.get("within") or {}).get("step", 0)))
        save(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", noting)
        config = small(
            data, *SETTINGS, "checkpoint.steps=4", "checkpoint_every=5", "method=random"
        )
        quietly(config, tmp_path)
        assert saved == [(0, 4), (0, 8), (1, 2), (1, 6), (2, 0)]
        saved.clear()
        # Every step is later than this after the checkpoint before, but each may cost a hundredth of the time.
        quietly(
            small(data, *SETTINGS, "checkpoint.minutes=1.0e-9", "method=dense"),
            tmp_path,
        )
    assert saved[0] == (0, 1)
    assert saved[-1] == (2, 0)
    assert len(saved) < 10


def test_slow_checkpoints_are_few_by_default(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = RunFolder.save_checkpoint

    def slowly(self: RunFolder, state: dict[str, Any]) -> None:
        time.sleep(0.2)
        saved.append(state["epoch"])
        save(self, state)

    monkeypatch.setattr(RunFolder, "save_checkpoint", slowly)
    # An epoch takes less than 20 s, a hundred times the 0.2 s: the end of the second has no checkpoint of its own.
    result = quietly(small(data, *SETTINGS, "epochs=4", "method=random"), tmp_path)
    assert saved == [1, 4]
    assert result.checkpoint_seconds > 0.4
    assert sum(row["checkpoint_seconds"] for row in RunFolder(result.path).metrics())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.steps=0", "checkpoint.steps: input should be greater than"),
        ("checkpoint.minutes=0", "checkpoint.minutes: input should be greater than 0"),
        ("checkpoint.hours=1", "unknown key 'checkpoint.hours'"),
        ("checkpoint_every=0", "checkpoint_every"),
    ],
)
def test_times_that_are_none(data: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(data, override)


def test_steps_are_in_place_of_minutes(data: Path) -> None:
    times = small(data, "checkpoint.steps=7").checkpoint
    assert (times.steps, times.minutes) == (7, None)
    both = small(data, "checkpoint={steps: 7, minutes: 3}").checkpoint
    assert (both.steps, both.minutes) == (7, 3)
    assert small(data).checkpoint.minutes == 10
    assert small(data).hash() == small(data, "checkpoint.steps=7").hash()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 99}, "of step 99 of an epoch, which has 10"),
        ({"step": 4}, "of epoch 0, which ends at step 0, and of 4 steps after it"),
        ({"random": {}}, "states of random generators do not fit"),
        ({"more": 1}, "does not tell where in its epoch"),
    ],
)
def test_a_place_within_an_epoch_that_no_training_wrote(
    data: Path, tmp_path: Path, sent: Signals, change: dict[str, Any], message: str
) -> None:
    config = small(data, *SETTINGS, "method=random")
    leave(config, tmp_path, sent, 3)
    folder = RunFolder(next(tmp_path.iterdir()))
    state = folder.checkpoint()
    assert state is not None
    folder.save_checkpoint({**state, "within": {**state["within"], **change}})
    with pytest.raises(CheckpointError, match=message):
        quietly(config, tmp_path)


# ---------------------------------------------------------------------- whole processes

SLOW_STEP = """
import time
from torch import nn
from sparsify_fx.zoo.models.spec import MODELS

class Slow(nn.Module):
    def forward(self, x):
        if self.training:
            print("step", flush=True)
            time.sleep({seconds})
        return x

@MODELS.register("slow")
def slow(spec):
    size = spec.in_channels * spec.image_size**2
    return nn.Sequential(nn.Flatten(), Slow(), nn.Linear(size, spec.num_classes))
"""


def slow_training(data: Path, folder: Path, seconds: float, *options: str) -> list[str]:
    plugin = folder / "slow.py"
    plugin.write_text(SLOW_STEP.format(seconds=seconds))
    sets = ["model=slow", "epochs=2", "method=random", f"data=npz:{data}", *SETTINGS]
    asked = [part for override in sets for part in ("--set", override)]
    run = [sys.executable, "-m", "sparsify_fx", "train", "mnist5k-lenet5", *asked]
    where = ["--runs", str(folder / "runs"), "--plugin", str(plugin), "--device", "cpu"]
    return [*run, *where, "--no-tensorboard", "--quiet", *options]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        *swept([(signal.SIGUSR1, 75), (signal.SIGINT, 130)]),
    ],
)
def test_a_signal_ends_the_command_with_a_code_of_its_own(
    data: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = slow_training(data, tmp_path, 0.05)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on from" in told
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "checkpoint.pt").exists()
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.sweep
@pytest.mark.slow
def test_a_step_that_takes_longer_than_the_grace_time(
    data: Path, tmp_path: Path
) -> None:
    command = slow_training(data, tmp_path, 100, "--grace", "0.5")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        _, told = process.communicate(timeout=60)
    assert time.monotonic() - start < 5
    assert process.returncode == 75
    assert told.startswith(
        "error: SIGTERM came 0.5 s ago, and the training could not save"
    )
