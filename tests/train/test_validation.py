"""Validation, averages, mixing and clipping: what is evaluated when, and that all of it is resumed to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsify_fx.checkpoints.run_files import AVERAGE, BEST, read_tensors
from sparsify_fx.errors import ConfigError, DataError
from sparsify_fx.train.best import best_model
from sparsify_fx.train.epoch import evaluate
from sparsify_fx.train.restore import load_trained
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.session import build_session
from sparsify_fx.train.steps import build_steps
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.data.validation import split, with_validation
from tests.train.common import quietly, small, write_images

ALL = (
    "validation=0.2",
    "ema={decay: 0.9, warmup: false}",
    "mixup=0.2",
    "cutmix=1.0",
    "clip_grad_norm=0.5",
    "label_smoothing=0.1",
)


def test_a_split_is_by_class_and_by_seed() -> None:
    labels = torch.arange(4).repeat(25)
    train, validation = split(labels, 0.2, seed=3)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(100))
    assert labels[validation].bincount().tolist() == [5] * 4
    assert torch.equal(validation, split(labels, 0.2, seed=3)[1])
    assert not torch.equal(validation, split(labels, 0.2, seed=4)[1])


def test_a_share_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    data = load_data(f"npz:{write_images(tmp_path / 'a.npz', count=20)}")
    with pytest.raises(
        DataError, match="to train on and 0 to validate; choose another"
    ):
        with_validation(data, 0.01, 0)
    with pytest.raises(DataError, match="leaves 0 to train on"):
        with_validation(data, 0.99, 0)


def test_the_best_epoch_is_chosen_by_the_validation(tmp_path: Path) -> None:
    """Of the sparsest epochs; the test set has no part in it, and is evaluated once on what was chosen."""
    keys = ("method=lrr", "validation=0.25", "epochs=4", "keep_best=true")
    config = small(
        write_images(tmp_path / "a.npz"),
        *keys,
        "snapshots_at=[5, 6, 7, 8]",
        "sparsity=0.2",
    )
    result = quietly(config, tmp_path / "runs")
    folder = RunFolder(result.folder)
    rows = folder.metrics()
    sparsest = [row for row in rows if row["nonzeros"] == rows[-1]["nonzeros"]]
    assert 0 < len(sparsest) < len(rows)
    best = max(sparsest, key=lambda row: (row["validation_accuracy"], -row["epoch"]))
    assert result.best_epoch == best["epoch"]
    assert result.best_validation_accuracy == best["validation_accuracy"]
    kept = read_tensors(folder.path / BEST)
    at_that_epoch = read_tensors(folder.path / f"epoch-{result.best_epoch}.safetensors")
    assert kept.keys() == at_that_epoch.keys()
    for name, tensor in kept.items():
        assert tensor.equal(at_that_epoch[name]), name
    model = best_model(build_session(config), folder)
    session = build_session(config)
    found = evaluate(session, model, session.test_batches())
    assert result.best_test_accuracy == found
    assert "best by validation: epoch" in str(result.table().caption)
    exported = load_trained(folder.path / BEST).model.state_dict()
    for name, tensor in exported.items():
        assert tensor.equal(kept[name]), name
    with pytest.raises(ConfigError, match=r"set validation: 0\.1"):
        small(tmp_path / "a.npz", "keep_best=true")


def test_the_test_is_evaluated_at_the_end_of_cycles_alone(tmp_path: Path) -> None:
    config = small(
        write_images(tmp_path / "a.npz"), "method=lrr", "validation=0.25", "epochs=2"
    )
    result = quietly(config, tmp_path / "runs")
    rows = RunFolder(result.folder).metrics()
    ends = [cycle.epoch for cycle in result.cycles]
    assert [r["epoch"] for r in rows if r["test_accuracy"] is not None] == ends
    assert all(row["validation_accuracy"] is not None for row in rows)
    assert result.validation_accuracy == rows[-1]["validation_accuracy"]
    assert "validation" in [str(column.header) for column in result.table().columns]
    session = build_session(config)
    assert (len(session.data.train), session.data.facts.train_size) == (60, 60)
    assert session.data.validation is not None
    assert len(session.data.validation) == 20


@pytest.mark.parametrize("method", ["rigl", "lrr+signin", "random"])
def test_an_average_is_as_sparse_as_its_model(tmp_path: Path, method: str) -> None:
    config = small(write_images(tmp_path / "a.npz"), f"method={method}", ALL[1])
    result = quietly(config, tmp_path / "runs")
    weights, average = (
        read_tensors(result.path / name) for name in ("model.safetensors", AVERAGE)
    )
    pruned = 0
    for name, weight in weights.items():
        assert not average[name][weight == 0].any(), name
        pruned += int((weight == 0).sum())
    assert pruned > 0
    assert any(not torch.equal(weights[name], average[name]) for name in weights)
    assert result.average_test_accuracy is not None


def test_an_average_starts_anew_with_each_cycle(tmp_path: Path) -> None:
    config = small(write_images(tmp_path / "a.npz"), "method=imp", ALL[1])
    session = build_session(config)
    assert session.average is not None
    session.average.update(session.model, 0)
    with torch.no_grad():
        for parameter in session.model.parameters():
            parameter.zero_()
    session.average.update(session.model, 0)
    assert any(bool(p.any()) for p in session.average.model.parameters())
    session.average.update(session.model, 1)
    assert not any(bool(p.any()) for p in session.average.model.parameters())


def test_everything_together_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(
        write_images(tmp_path / "a.npz"), "method=rigl", *ALL, "keep_best=true"
    )
    whole = quietly(config, tmp_path / "whole")
    session = build_session(config)
    kept = session.training_batches
    seen = [y for _, y in kept(1)]
    assert all(
        y.shape == (20, 4) and torch.allclose(y.sum(1), torch.ones(20)) for y in seen
    )
    assert torch.equal(next(iter(kept(1, 2)))[1], seen[2])

    class Stopped(Exception):
        """In place of a kill."""

    def append(folder: RunFolder, row: dict[str, object]) -> None:
        if row["epoch"] == 2:
            raise Stopped
        written(folder, row)

    written = RunFolder.append
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", append)
        with pytest.raises(Stopped):
            quietly(config, tmp_path / "again")
    again = quietly(config, tmp_path / "again")
    for name in ("model.safetensors", AVERAGE, BEST):
        assert (whole.path / name).read_bytes() == (again.path / name).read_bytes()
    kept_keys = (
        "test_accuracy",
        "validation_accuracy",
        "average_test_accuracy",
        "best_epoch",
        "best_test_accuracy",
        "loss",
    )
    one, other = (
        json.loads((r.path / "result.json").read_text()) for r in (whole, again)
    )
    assert [one[key] for key in kept_keys] == [other[key] for key in kept_keys]


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    data = write_images(tmp_path / "a.npz")
    session = build_session(
        small(
            data,
            "clip_grad_norm=0.001",
            "optimizer.weight_decay=0",
            "optimizer.momentum=0",
        )
    )
    before = [p.detach().clone() for p in session.model.parameters()]
    x, y = next(session.training_batches(1))
    rate = session.optimizer.param_groups[0]["lr"]
    build_steps(session)(x, y, 1, 1)
    moved = [
        (a - b.detach()).norm()
        for a, b in zip(before, session.model.parameters(), strict=True)
    ]
    assert float(torch.stack(moved).norm()) <= 0.0012 * rate


def test_the_keys_are_in_the_name_and_checked(tmp_path: Path) -> None:
    data = write_images(tmp_path / "a.npz")
    names = {small(data, key).hash() for key in ALL[:5]}
    assert len(names | {small(data).hash()}) == 6
    with pytest.raises(ConfigError, match="use storage=auto"):
        small(data, ALL[1], "storage=living")
    for key in (
        "validation=1",
        "mixup=-1",
        "clip_grad_norm=0",
        "ema={decay: 1}",
        "ema={rate: 1}",
    ):
        with pytest.raises(ConfigError, match=key.partition("=")[0]):
            small(data, key)


def test_a_run_that_begins_again_leaves_no_old_average(tmp_path: Path) -> None:
    config = small(write_images(tmp_path / "a.npz"), ALL[1])
    result = quietly(config, tmp_path / "runs")
    RunFolder(result.folder).clear()
    assert not (result.path / AVERAGE).exists()
