"""Models, optimizers and data by import path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsify_fx.errors import ConfigError, DataError, PluginError, SparsifyError
from sparsify_fx.train import load_config
from sparsify_fx.train.optimizers import build_optimizer
from sparsify_fx.train.restore import load_trained
from sparsify_fx.zoo.data import Augment, load_data
from sparsify_fx.zoo.models import build_model
from tests.train.common import SMALL, quietly
from tests.train.own_code import Sluggish
from tests.zoo.common import same

OWN = "tests.train.own_code"
RECIPE = [
    *SMALL,
    f"data={OWN}:noisy",
    f"model={OWN}:net",
    f"optimizer.name={OWN}:Sluggish",
]


def test_a_training_of_nothing_but_own_code(tmp_path: Path) -> None:
    config = load_config("mnist5k-lenet5", [*RECIPE, "validation=0.25"])
    result = quietly(config, tmp_path)
    assert 0 <= result.test_accuracy <= 1
    assert result.validation_accuracy is not None
    trained = load_trained(result.folder)
    assert trained.inputs.shape == (20, 1, 8, 8)
    assert trained.model(trained.inputs).shape == (20, 4)
    assert quietly(config, tmp_path) == result
    others = {
        load_config("mnist5k-lenet5", [*RECIPE, f"seed={s}"]).hash() for s in (0, 1)
    }
    assert len({config.hash(), *others}) == 3


def test_items_are_a_function_of_seed_epoch_and_index() -> None:
    def epoch(
        workers: int, start: int = 0, number: int = 1
    ) -> list[tuple[torch.Tensor, ...]]:
        part = load_data(f"{OWN}:noisy", workers=workers).train
        return list(part.epoch(16, train=True, seed=2, epoch=number, start=start))

    before = torch.get_rng_state()
    whole = epoch(0)
    assert torch.equal(before, torch.get_rng_state())
    for workers in (1, 2):
        assert same(whole, epoch(workers))  # type: ignore[arg-type]
    assert same(whole[3:], epoch(2, 3))  # type: ignore[arg-type]
    assert not same(whole, epoch(0, number=2))  # type: ignore[arg-type]


def test_own_data_of_the_package() -> None:
    assert load_data(f"{OWN}:digits", image_size=14).image_size == 14


def test_a_model_gets_what_it_names() -> None:
    model = build_model("torch.nn:Identity", num_classes=3, in_channels=1, image_size=8)
    assert isinstance(model, torch.nn.Identity)
    resnet = build_model("torchvision.models.resnet:resnet18", num_classes=7)
    assert resnet.get_submodule("fc").out_features == 7  # type: ignore[union-attr]


def test_an_optimizer_gets_its_options() -> None:
    optimizer = build_optimizer(
        torch.nn.Linear(2, 2).parameters(), f"{OWN}:Sluggish", 0.1, {"momentum": 0.2}
    )
    assert isinstance(optimizer, Sluggish)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        (f"model={OWN}:nett", PluginError, "unknown model 'nett'; did you mean 'net'"),
        (f"model={OWN}:no_net", ConfigError, "made a int; expected a torch.nn.Module"),
        ("model=torch.nn:Linear", ConfigError, "cannot be built for"),
        ("model=tests.train.missing:net", PluginError, "missing cannot be imported"),
        ("model=no_such_package:net", SparsifyError, "put its folder into PYTHONPATH"),
        ("model=os:nothing", PluginError, r"unknown model 'nothing'.{,400} \.\.\.$"),
        ("model=collections:namedtuple", ConfigError, r"TypeError: .*, line \d+\)"),
        (f"data={OWN}:nothing", DataError, "made NoneType; expected Data, or"),
        ("data=no_such_package:net", SparsifyError, "put its folder into PYTHONPATH"),
        ("data=my_project.data:net", PluginError, "my_project.data cannot be imported"),
        ("data=json:loads", DataError, r"json:loads failed with TypeError.*line \d+\)"),
        ("optimizer.name=a.b:C", PluginError, "a.b cannot be imported"),
        (f"optimizer.name={OWN}:net", PluginError, "is no class of optimizers"),
        ("augment.flip=true", DataError, "augment does not apply to data of your own"),
    ],
)
def test_what_is_wrong_is_told_in_words(
    tmp_path: Path, setting: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        quietly(load_config("mnist5k-lenet5", [*RECIPE, setting]), tmp_path)
    assert not [path for path in tmp_path.iterdir() if (path / "result.json").exists()]


def test_data_without_an_augmentation_of_ours() -> None:
    part = load_data(f"{OWN}:noisy").train
    with pytest.raises(DataError, match="put transforms into the data set"):
        part.epoch(8, train=True, augment=Augment(flip=True))
