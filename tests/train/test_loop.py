"""The loop on real digits: results, cycles, evaluation before pruning, divergence, compile and bf16."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch._dynamo.utils import counters

from sparsify_fx.api import dense_state_dict
from sparsify_fx.errors import (
    CheckpointError,
    DataError,
    SparsifyError,
    TrainingError,
    UnknownNameError,
)
from sparsify_fx.initializations import INITIALIZATIONS
from sparsify_fx.train import Result, TrainConfig, load_config, train
from sparsify_fx.train.epoch import derived_seed, evaluate
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.session import build_session
from tests.conftest import small_net

pytestmark = pytest.mark.slow

TINY = ["epochs=2", "batch_size=500", "learning_rate.warmup=1", "device=cpu"]


def tiny(*overrides: str, recipe: str = "mnist5k-lenet5") -> TrainConfig:
    return load_config(recipe, [*TINY, *overrides])


def quietly(config: TrainConfig, runs: Path, force: bool = False) -> Result:
    return train(config, runs_dir=runs, force=force, progress=False, tensorboard=False)


def weights_of(result: Result) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(result.path / "model.safetensors")


def test_cycles_end_at_their_densities_and_are_evaluated_before_the_next_pruning(
    tmp_path: Path,
) -> None:
    result = quietly(tiny("method=wr", "sparsity=0.36"), tmp_path)
    rows = RunFolder(result.path).metrics()
    total = result.weights
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["run"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [row["nonzeros"] for row in rows] == [
        total,
        total,
        *[round(total * 0.8)] * 2,
        *[round(total * 0.64)] * 2,
    ]
    assert [(c.run, c.epoch, c.nonzeros) for c in result.cycles] == [
        (i, 2 * i + 2, rows[2 * i]["nonzeros"]) for i in range(3)
    ]
    assert [c.test_accuracy for c in result.cycles] == [
        rows[i]["test_accuracy"] for i in (1, 3, 5)
    ]
    assert result.test_accuracy == rows[-1]["test_accuracy"]
    plain = weights_of(result)
    kept = sum(
        int((w != 0).sum()) for name, w in plain.items() if name.endswith("weight")
    )
    assert kept == result.nonzeros == round(total * 0.64)


def test_the_reported_accuracy_is_that_of_the_saved_weights(tmp_path: Path) -> None:
    result = quietly(
        tiny("method=signin", "epochs=4", recipe="mnist5k-lenet5-bn"), tmp_path
    )
    session = build_session(tiny("method=dense", recipe="mnist5k-lenet5-bn"))
    session.model.load_state_dict(weights_of(result))
    assert (
        abs(
            evaluate(session, session.model, session.test_batches())
            - result.test_accuracy
        )
        <= 0.002
    )
    assert result.test_accuracy > 0.5


def test_the_same_seed_gives_the_same_bits_and_a_finished_run_is_not_repeated(
    tmp_path: Path,
) -> None:
    config = tiny("method=random")
    before = torch.random.get_rng_state()
    first, second = quietly(config, tmp_path / "a"), quietly(config, tmp_path / "b")
    assert torch.equal(before, torch.random.get_rng_state())
    ours, theirs = weights_of(first), weights_of(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    stamp = (first.path / "checkpoint.pt").stat().st_mtime_ns
    assert quietly(config, tmp_path / "a") == first
    assert (first.path / "checkpoint.pt").stat().st_mtime_ns == stamp
    again = quietly(config, tmp_path / "a", force=True)
    assert (first.path / "checkpoint.pt").stat().st_mtime_ns > stamp
    assert again.test_accuracy == first.test_accuracy
    assert Result.from_dict(json.loads(json.dumps(again.to_dict()))) == again


def test_another_seed_gives_other_weights_order_and_mask() -> None:
    one, other = (
        build_session(tiny("method=random", f"seed={seed}")) for seed in (0, 1)
    )
    ours, theirs = dense_state_dict(one.model), dense_state_dict(other.model)
    assert not torch.equal(ours["fc1.weight"] != 0, theirs["fc1.weight"] != 0)
    assert not torch.equal(ours["fc1.bias"], theirs["fc1.bias"])
    assert not torch.equal(
        next(one.training_batches(1))[1], next(other.training_batches(1))[1]
    )


def test_evaluating_and_checkpointing_less_often_changes_no_weight(
    tmp_path: Path,
) -> None:
    often = quietly(tiny("method=lrr", "sparsity=0.2", "epochs=3"), tmp_path / "a")
    seldom = quietly(
        tiny(
            "method=lrr",
            "sparsity=0.2",
            "epochs=3",
            "eval_every=5",
            "checkpoint_every=4",
        ),
        tmp_path / "b",
    )
    ours, theirs = weights_of(often), weights_of(seldom)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tested = [
        row["test_accuracy"] is not None for row in RunFolder(seldom.path).metrics()
    ]
    assert tested == [
        False,
        False,
        True,
        False,
        True,
        True,
    ]  # the ends of both runs, and every fifth
    assert [c.test_accuracy for c in seldom.cycles] == [
        c.test_accuracy for c in often.cycles
    ]


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["rigl", "acdc+signin"])
def test_masks_that_move_do_not_depend_on_evaluations(
    tmp_path: Path, method: str
) -> None:
    given = [f"method={method}", "epochs=3", "batch_size=400"]
    often = quietly(tiny(*given, recipe="mnist5k-lenet5-bn"), tmp_path)
    seldom = quietly(tiny(*given, "eval_every=3", recipe="mnist5k-lenet5-bn"), tmp_path)
    ours, theirs = weights_of(often), weights_of(seldom)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert often.path != seldom.path
    assert often.nonzeros == seldom.nonzeros == round(0.1 * often.weights)


def test_a_diverging_training_names_the_epoch_and_keeps_its_folder(
    tmp_path: Path,
) -> None:
    config = tiny("method=lrr", "sparsity=0.2", "optimizer.lr=1.0e+30")
    with pytest.raises(TrainingError, match=r"in epoch 1 .*lower optimizer\.lr"):
        quietly(config, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert (folder / "config.yaml").is_file()
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("model=lenet6", UnknownNameError),
        ("data=mnist6k", UnknownNameError),
        ("data=npz:/does/not/exist.npz", DataError),
        ("batch_size=4001", DataError),
        ("include=nothing*", SparsifyError),
        ("sparsity=0.999999999", SparsifyError),
        ("optimizer={name: sgd, lr: 0.1, nesterov: true}", SparsifyError),
        ("method=wr axes.rewind={weights: 7}", SparsifyError),
    ],
)
def test_bad_input_leaves_nothing_on_disk(
    tmp_path: Path, override: str, error: type[SparsifyError]
) -> None:
    with pytest.raises(error):
        quietly(
            tiny(*override.split(" ", 1))
            if override.startswith("method")
            else tiny(override),
            tmp_path,
        )
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    config = tiny("method=lrr", "sparsity=0.2")
    result = quietly(config, tmp_path)
    (result.path / "result.json").unlink()
    state = torch.load(result.path / "checkpoint.pt", weights_only=True)
    state["scheduler"]["fingerprint"]["sparsity"] = 0.5
    torch.save(state, result.path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"sparsity.*--force"):
        quietly(config, tmp_path)


def test_dropout_and_augmentation_come_from_the_seed_of_their_epoch() -> None:
    assert derived_seed(0, 1) == derived_seed(0, 1)
    assert (
        len({derived_seed(seed, epoch) for seed in range(10) for epoch in range(10)})
        == 100
    )
    assert 0 <= derived_seed(2**31 - 1, 10**6) < 2**63
    session = build_session(tiny("augment={crop_padding: 2, flip: true}"))
    (one, _), (same, _) = (next(iter(session.training_batches(3))) for _ in range(2))
    (other, _) = next(iter(session.training_batches(4)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.sweep
def test_bf16_and_smoothing_and_kaiming_train(tmp_path: Path) -> None:
    config = tiny(
        "method=signin",
        "amp=true",
        "label_smoothing=0.1",
        "init=kaiming_normal",
        "epochs=3",
    )
    result = quietly(config, tmp_path)
    assert math.isfinite(result.loss)
    assert all(weight.dtype == torch.float32 for weight in weights_of(result).values())


@pytest.mark.sweep
def test_compiled_training_keeps_one_graph_over_all_cycles(tmp_path: Path) -> None:
    torch._dynamo.reset()
    counters.clear()
    result = quietly(
        tiny("method=lrr+signin", "sparsity=0.36", "compile=true"), tmp_path
    )
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert len(result.cycles) == 3


def test_tensorboard_writes_scalars_where_it_is_installed(tmp_path: Path) -> None:
    result = train(tiny("method=random", "epochs=2"), runs_dir=tmp_path, progress=False)
    (events,) = (result.path / "tensorboard").iterdir()
    assert b"test_accuracy" in events.read_bytes()


def test_kaiming_normal_draws_from_its_generator_alone() -> None:
    draws = []
    for seed in (0, 0, 1):
        net = small_net()
        INITIALIZATIONS["kaiming_normal"](net, torch.Generator().manual_seed(seed))
        draws.append(net)
    assert torch.equal(draws[0][0].weight, draws[1][0].weight)
    assert not torch.equal(draws[0][0].weight, draws[2][0].weight)
    assert torch.equal(draws[0][3].bias, small_net()[3].bias)
    assert abs(draws[0][7].weight.std().item() - math.sqrt(2 / 72)) < 0.03
