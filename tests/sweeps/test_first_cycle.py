"""A dense first cycle that is trained once gives the same bits as one for each trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsify_fx.sweeps.first_cycle import (
    begin_with_first_cycle,
    first_cycle,
    leaders_of,
)
from sparsify_fx.sweeps.grid import trials_of
from sparsify_fx.sweeps.plan import load_sweep
from sparsify_fx.train import TrainConfig, train
from sparsify_fx.train.run_folder import run_path
from sparsify_fx.train.saving import FIRST_CYCLE
from tests.sweeps.common import call, write_sweep
from tests.train.common import quietly, small, write_images

SHARING = [("lrr", 0.2), ("lrr", 0.36), ("imp", 0.36), ("lrr-nowarmup", 0.36)]


def bits(folder: Path) -> tuple[Any, ...]:
    """What a run left behind: weights, states on the way, and metrics but for times."""
    files = sorted(folder.glob("*.safetensors"))
    rows = [
        {k: v for k, v in json.loads(line).items() if "seconds" not in k}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return [(file.name, file.read_bytes()) for file in files], rows


def config(data: Path, method: str, sparsity: float, *more: str) -> TrainConfig:
    sets = (f"method={method}", f"sparsity={sparsity}", "save_cycles=true")
    return small(data, *sets, *more)


@pytest.mark.parametrize(("optimizer", "epochs"), [("sgd", 2), ("adamw", 1)])
def test_the_same_bits(tmp_path: Path, optimizer: str, epochs: int) -> None:
    data = write_images(tmp_path / "mine.npz")
    # A small rate for both; momentum is state that the last step of the cycle needs.
    more = [f"epochs={epochs}", f"optimizer={{name: {optimizer}, lr: 0.01}}"]
    more += ["augment.flip=true"]
    # The last needs a run that is longer than its warm-up.
    sharing = SHARING[: 2 + epochs]
    configs = [config(data, method, sparsity, *more) for method, sparsity in sharing]
    assert len({first_cycle(each) for each in configs}) == 1
    first, *others = configs
    leader = train(
        first, runs_dir=tmp_path / "shared", progress=False, keep_first_cycle=True
    ).path
    assert (leader / FIRST_CYCLE).exists()
    assert bits(leader) == bits(quietly(first, tmp_path / "alone").path)
    for each in others:
        path = run_path(tmp_path / "shared", each)
        begin_with_first_cycle(each, leader, path)
        begun = (path / "checkpoint.pt").read_bytes()
        begin_with_first_cycle(each, leader, path)  # which has begun by now
        assert (path / "checkpoint.pt").read_bytes() == begun
        assert quietly(each, tmp_path / "shared").path == path
        assert bits(path) == bits(quietly(each, tmp_path / "alone").path)


def test_what_is_not_shared(tmp_path: Path) -> None:
    data = write_images(tmp_path / "mine.npz")
    shared = first_cycle(config(data, "lrr", 0.36))
    assert shared == first_cycle(
        config(data, "lrr", 0.36, "axes.schedule={name: cycles, keep: 0.5}")
    )
    for other in (
        config(data, "lrr", 0.36, "seed=1"),
        config(data, "lrr", 0.36, "optimizer.lr=0.5"),
        config(data, "lrr", 0.36, "optimizer.weight_decay=0"),
        config(data, "lrr", 0.36, "epochs=3"),
        config(data, "lrr", 0.36, "exclude=[fc1]"),
    ):
        assert first_cycle(other) not in (None, shared)
    for alone in (
        config(data, "lrr", 0),  # one run, which nothing follows
        config(data, "gmp", 0.36),
        config(data, "wr", 0.36),  # goes back to a point within the cycle
        config(data, "lrr+signin", 0.36),  # rescales within it
        config(data, "lrr", 0.36, "snapshots_at=[1]"),
        config(data, "lrr", 0.36, "axes.rewind.learning_rate=null"),
    ):
        assert first_cycle(alone) is None


def test_other_data_or_no_checkpoint_train_their_own(tmp_path: Path) -> None:
    data = write_images(tmp_path / "mine.npz")
    first, other = config(data, "lrr", 0.2), config(data, "imp", 0.2)
    leader = train(
        first, runs_dir=tmp_path / "a", progress=False, keep_first_cycle=True
    ).path
    write_images(data, shift=1)
    path = run_path(tmp_path / "a", other)
    begin_with_first_cycle(other, leader, path)
    assert not path.exists()
    (leader / FIRST_CYCLE).unlink()
    begin_with_first_cycle(other, leader, path)
    assert not path.exists()


@pytest.mark.sweep
@pytest.mark.slow
def test_a_sweep_shares_it(tmp_path: Path) -> None:
    """The shortest leads, its file is gone at the end, and results are those of a sweep that shares nothing."""
    values: dict[str, Any] = {"method": ["imp", "lrr"], "sparsity": [0.36, 0.2]}
    sweep = write_sweep(tmp_path, **values)
    leaders = leaders_of(trials_of(load_sweep(sweep)))
    assert set(leaders.values()) == {"imp sparsity=0.2"}
    assert len(leaders) == 3
    code, _, err = call("sweep", sweep, folder=tmp_path)
    assert code == 0, err
    assert not list((tmp_path / "runs").glob(f"*/{FIRST_CYCLE}"))
    plan = load_sweep(sweep)
    for name, trial in trials_of(plan).items():
        alone = quietly(trial.config({}), tmp_path / "alone").path
        assert bits(tmp_path / "runs" / alone.name) == bits(alone), name
