"""Runs that take masks, signs and magnitudes from others, end to end on real digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from sparsify_fx.checkpoints.run_files import read_state
from sparsify_fx.errors import (
    CheckpointError,
    ConfigError,
    SparsifyError,
    SparsityError,
)
from sparsify_fx.programs.owners import programs
from sparsify_fx.train import Result, TrainConfig, load_config, train
from sparsify_fx.train.data import open_data
from sparsify_fx.train.restore import load_trained
from sparsify_fx.train.session import build_session, fresh_model
from tests.common import swept

pytestmark = pytest.mark.slow

TINY = [
    "epochs=2",
    "batch_size=500",
    "learning_rate.warmup=1",
    "device=cpu",
    "sparsity=0.36",
]


def tiny(*overrides: str, recipe: str = "mnist5k-lenet5-bn") -> TrainConfig:
    return load_config(recipe, [*TINY, *overrides])


def quietly(config: TrainConfig, runs: Path) -> Result:
    return train(config, runs_dir=runs, progress=False, tensorboard=False)


@pytest.fixture(scope="module")
def lrr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny("method=lrr", "save_cycles=true", "snapshots_at=[0, 1, 3]")
    return quietly(config, tmp_path_factory.mktemp("runs")).path


def states(run: Path, pattern: str = "cycle") -> dict[int, dict[str, Tensor]]:
    files = run.glob(f"{pattern}-*.safetensors")
    return {
        int(file.stem.partition("-")[2]): safetensors.torch.load_file(file)
        for file in files
    }


def masks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.endswith(".mask")}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.sweep
def test_cycles_and_epochs_are_kept(lrr: Path) -> None:
    cycles, epochs, result = (
        states(lrr),
        states(lrr, "epoch"),
        json.loads((lrr / "result.json").read_text()),
    )
    assert [int(sum(m.sum() for m in masks(cycles[i]).values())) for i in range(3)] == [
        cycle["nonzeros"] for cycle in result["cycles"]
    ]
    final = read_state(lrr)
    assert_same(cycles[2], final)
    assert_same(final, read_state(lrr / "model.safetensors"))
    assert set(epochs) == {0, 1, 3}
    config = tiny("method=lrr")
    start = fresh_model(config, open_data(config)).state_dict()
    assert all(torch.equal(epochs[0][name], tensor) for name, tensor in start.items())
    assert_same(masks(epochs[3]), masks(cycles[1]))
    assert not torch.equal(epochs[3]["fc1.weight"], cycles[1]["fc1.weight"])


@pytest.mark.sweep
def test_a_resumed_run_keeps_the_same_states(lrr: Path, tmp_path: Path) -> None:
    config = tiny(
        "method=lrr", "save_cycles=true", "snapshots_at=[0, 1, 3]", "checkpoint_every=4"
    )
    path = quietly(config, tmp_path).path
    for name in ("cycle-2.safetensors", "model.safetensors", "result.json"):
        (path / name).unlink()
    checkpoint = torch.load(path / "checkpoint.pt", weights_only=True)
    assert checkpoint["epoch"] == 6
    again = quietly(
        tiny("method=lrr", "save_cycles=true", "snapshots_at=[0, 1, 3]"), tmp_path
    )
    assert again.path == path, "checkpoint_every is not in the name"
    for name in ("epoch-3.safetensors", "cycle-1.safetensors", "model.safetensors"):
        assert (path / name).read_bytes() == (lrr / name).read_bytes()


@pytest.mark.parametrize(
    "take",
    [
        "mask",
        "mask, signs",
        "mask, magnitudes",
        "mask, weights",
        "magnitudes, signs, mask",
    ],
)
def test_a_run_starts_from_parts_of_another(lrr: Path, take: str) -> None:
    config = tiny(
        "method=random", f"init_from={{run: {lrr}, take: [{take}], cycle: 2}}"
    )
    there, own = (
        read_state(lrr, cycle=2),
        fresh_model(config, open_data(config)).state_dict(),
    )
    model = build_session(config).model
    for name, program in programs(model).items():
        mask, theirs, ours = there[f"{name}.mask"], there[name], own[name]
        assert torch.equal(program.current_mask(), mask)
        signs = theirs.sign() if "signs" in take or "weights" in take else ours.sign()
        sizes = (
            theirs.abs() if "magnitudes" in take or "weights" in take else ours.abs()
        )
        assert torch.equal(program.effective(), signs * sizes * mask)
    biases = {
        name: model.state_dict()[name]
        for name in ("fc1.bias", "bn1.running_mean")
        if name in own
    }
    for name, bias in biases.items():
        assert torch.equal(bias, there[name] if "weights" in take else own[name])


def test_the_learned_mask_with_the_signs_of_an_early_epoch(
    lrr: Path, tmp_path: Path
) -> None:
    sources = f"[{{run: {lrr}, take: [mask]}}, {{run: {lrr}, take: [signs], epoch: 1}}]"
    config = tiny("method=random+signin", f"init_from={sources}", "snapshots_at=[0]")
    result = quietly(config, tmp_path)
    start, early, final = (
        read_state(result.path, epoch=0),
        read_state(lrr, epoch=1),
        read_state(lrr),
    )
    assert_same(masks(start), masks(final))
    kept = final["fc1.weight.mask"] == 1
    assert torch.equal(
        start["fc1.weight"].sign()[kept], early["fc1.weight"].sign()[kept]
    )
    assert result.nonzeros == sum(int(mask.sum()) for mask in masks(final).values())
    away = lrr.rename(
        lrr.with_name("away")
    )  # what was taken is in the run's own checkpoint
    try:
        assert torch.equal(load_trained(result.path).model.fc1.weight != 0, kept)
    finally:
        away.rename(lrr)


def test_the_source_decides_the_name_by_its_content(lrr: Path, tmp_path: Path) -> None:
    def name(run: Path, *more: str) -> str:
        return tiny("method=random", f"init_from.run={run}", *more).hash()

    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for file in lrr.glob("*.*"):
        (copied / file.name).write_bytes(file.read_bytes())
    assert name(lrr) == name(copied)
    different = {
        name(lrr),
        name(lrr, "init_from.epoch=1"),
        name(lrr, "init_from.take=[mask]"),
        tiny().hash(),
    }
    assert len(different) == 4
    cycles = [
        tiny("method=wr", f"axes.criterion={{name: masks-of, run: {run}}}").hash()
        for run in (lrr, copied)
    ]
    assert cycles[0] == cycles[1]
    (copied / "cycle-2.safetensors").write_bytes(
        (copied / "cycle-1.safetensors").read_bytes()
    )
    assert (
        tiny("method=wr", f"axes.criterion={{name: masks-of, run: {copied}}}").hash()
        != cycles[0]
    )


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("cifar10-resnet18-imp-lrr-mask", ()),
        ("cifar10-resnet18-lrr-imp-mask", ()),
        (
            "cifar10-resnet18-imp-lrr-mask-signs",
            ("axes.actions={name: signs-of, source: RUN}", "snapshots_at=[2, 4]"),
        ),
    ],
)
def test_the_recipes_with_masks_of_another_run(
    lrr: Path, tmp_path: Path, recipe: str, options: tuple[str, ...]
) -> None:
    small = [
        "model=lenet5-bn",
        "data=mnist5k",
        "augment={crop_padding: 0}",
        "save_cycles=true",
        "init=default",
    ]
    given = [
        f"axes.criterion.run={lrr}",
        *(option.replace("RUN", str(lrr)) for option in options),
    ]
    result = quietly(tiny(*small, *given, recipe=recipe), tmp_path)
    theirs, ours = states(lrr), states(result.path)
    for cycle in range(3):
        assert_same(masks(ours[cycle]), masks(theirs[cycle]))
    assert not torch.equal(ours[2]["fc1.weight"], theirs[2]["fc1.weight"])
    assert [c.nonzeros for c in result.cycles] == [
        int(sum(m.sum() for m in masks(theirs[i]).values())) for i in range(3)
    ]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("recipe", "run"), [("lrr-perturb30", 1), ("lrr-perturb80", 8)]
)
def test_the_recipes_that_perturb_signs(tmp_path: Path, recipe: str, run: int) -> None:
    small = [
        "model=lenet5-bn",
        "data=mnist5k",
        "augment={crop_padding: 0}",
        "init=default",
        "learning_rate.warmup=0",
    ]
    sparsity = "sparsity=0.2" if run == 1 else "sparsity=0.83222784"
    config = tiny(
        *small,
        sparsity,
        "epochs=1",
        "batch_size=2000",
        recipe=f"cifar10-resnet18-{recipe}",
    )
    (event,) = (
        e
        for e in build_session(config).scheduler.timeline().events
        if e.what == "perturb-signs"
    )
    assert event.run == run
    if run == 1:
        assert quietly(config, tmp_path).cycles[1].density == pytest.approx(
            0.8, abs=1e-3
        )


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["lrr-rand", *swept(["imp-rand"])])
def test_random_masks_in_cycles_are_balanced(tmp_path: Path, method: str) -> None:
    last = read_state(
        quietly(tiny(f"method={method}", "save_cycles=true"), tmp_path).path, cycle=2
    )
    counts = {
        name: (int(mask.sum()), mask.numel()) for name, mask in masks(last).items()
    }
    unfilled = [kept for kept, size in counts.values() if kept < size]
    assert max(unfilled) - min(unfilled) <= 1
    assert all(kept <= min(unfilled) for kept, size in counts.values() if kept == size)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["init_from={run: RUN, epoch: 2}"],
            CheckpointError,
            r"epoch-2\.safetensors does not exist; train it with snap",
        ),
        (
            ["init_from={run: RUN, cycle: 7}"],
            CheckpointError,
            r"cycle-7\.safetensors does not exist",
        ),
        (
            ["init_from={run: nowhere}"],
            CheckpointError,
            r"nowhere/model\.safetensors does not exist",
        ),
        (
            ["init_from={run: RUN, take: [sign]}"],
            ConfigError,
            "unknown part to take 'sign'; did you mean 'signs'",
        ),
        (["init_from={run: RUN, epoch: 1, cycle: 1}"], ConfigError, "name two states"),
        (
            ["init_from={run: RUN, tak: [mask]}"],
            ConfigError,
            r"init_from\.0\.tak.*did you mean 'init_from\.0\.take'",
        ),
        (
            ["init_from={run: RUN}", "sparsity=0.5"],
            SparsityError,
            r"this model .*; apply a method .* sparsity=0\.3",
        ),
        (
            ["init_from={run: RUN}", "model=lenet5"],
            CheckpointError,
            "does not fit this model",
        ),
        (
            ["init_from={run: RUN}", "method=dense"],
            SparsifyError,
            "this method has no masks to take into",
        ),
        (
            ["snapshots_at=[0, 3]"],
            ConfigError,
            r"snapshots_at: \[3\] is beyond the 2 epochs",
        ),
        (
            ["method=wr", "axes.criterion={name: masks-of, run: nowhere}"],
            CheckpointError,
            "nowhere keeps no cycle-N",
        ),
        (
            ["method=wr", "axes.criterion={name: masks-of, run: RUN}", "sparsity=0.5"],
            CheckpointError,
            "none of",
        ),
        (
            ["method=wr", "axes.actions={name: signs-of, source: RUN}", "sparsity=0.7"],
            CheckpointError,
            "keeps no cycle-3",
        ),
        (
            [
                "method=wr",
                "axes.criterion={name: masks-of, run: RUN}",
                "axes.allocation=erk",
            ],
            SparsifyError,
            "use allocation='global'",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    lrr: Path,
    tmp_path: Path,
    overrides: list[str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        quietly(
            tiny(
                "method=random",
                *(override.replace("RUN", str(lrr)) for override in overrides),
            ),
            tmp_path,
        )
    assert list(tmp_path.iterdir()) == []
