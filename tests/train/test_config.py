"""Configurations: recipes, overrides, errors with suggestions, and the hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from sparsify_fx.errors import ConfigError, SparsifyError, UnknownNameError
from sparsify_fx.penalties import Frobenius
from sparsify_fx.train import TrainConfig, load_config, recipe_names
from sparsify_fx.zoo.models import build_model

CLASSES = {
    "mnist5k": 10,
    "cifar10": 10,
    "cifar100": 100,
    "imagefolder:data/imagenet": 1000,
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_its_model_takes_its_method(name: str) -> None:
    config = load_config(name)
    classes = CLASSES.get(config.data, 200)
    channels, side = (
        (1, 28) if config.data == "mnist5k" else (3, config.image_size or 32)
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model = build_model(
            config.model, num_classes=classes, in_channels=channels, image_size=side
        )
        outputs = model.eval()(torch.empty(2, channels, side, side))
    assert outputs.shape == (2, classes)
    assert config.find_method().resolved().to_dict()
    warmup = config.learning_rate.build().warmup_epochs(config.epochs)
    # The one-shot experiments of [Jacobs 2025] have none (Table 2).
    assert warmup < config.epochs
    assert warmup > 0 or name.endswith("-pilot")


def test_the_papers_recipes_are_complete() -> None:
    wanted = {
        "cifar10-resnet20": ("random", 150, 512, 0.2, 1e-4),
        "cifar100-resnet18": ("random", 150, 512, 0.2, 1e-4),
        "imagenet-resnet50": ("random", 100, 1024, 0.25, 5e-5),
        "imagenet-deit_small": ("random", 300, 1024, 0.001, 0.1),
        "cifar10-resnet20-signin": ("signin", 150, 512, 0.2, 0.0),
        "cifar100-resnet18-signin": ("signin", 150, 512, 0.2, 0.0),
        "imagenet-resnet50-signin": ("signin", 100, 1024, 0.25, 5e-5),
        "imagenet-deit_small-signin": ("signin", 300, 1024, 0.001, 0.1),
        "cifar10-resnet18-lrr": ("lrr", 150, 256, 0.1, 1e-4),
        "cifar100-resnet50-lrr": ("lrr", 150, 256, 0.1, 1e-3),
        "tinyimagenet-resnet50-lrr": ("lrr", 150, 256, 0.1, 1e-3),
        "imagenet-resnet50-lrr": ("lrr", 90, 256, 0.1, 1e-4),
    }
    for name, expected in wanted.items():
        c = load_config(name)
        assert (
            c.method,
            c.epochs,
            c.batch_size,
            c.optimizer.lr,
            c.optimizer.options["weight_decay"],
        ) == expected, name
        assert c.sparsity == (0.5 if "deit" in name else 0.9), name
    decay = load_config("cifar10-resnet20-signin").find_method().resolved().penalty
    assert decay == Frobenius(1e-4)
    assert (
        load_config("imagenet-deit_small-signin")
        .find_method()
        .resolved()
        .actions[0]
        .epochs(300)[-1]
        == 223
    )


def test_overrides_reach_nested_keys() -> None:
    overrides = [
        "optimizer.lr=2e-1",
        "learning_rate.warmup=null",
        "axes.allocation=erk",
        "exclude=fc*",
    ]
    config = load_config(
        "mnist5k-lenet5", overrides, {"method": "random", "epochs": None}
    )
    assert config.optimizer.lr == 0.2
    assert config.optimizer.options["momentum"] == 0.9
    assert config.learning_rate.warmup is None
    assert config.find_method().resolved().to_dict()["allocation"] == "erk"
    assert config.exclude == ("fc*",)
    assert (config.method, config.epochs) == ("random", 6)


def test_an_option_is_added_to_an_axis_given_by_name() -> None:
    config = load_config(
        "mnist5k-lenet5", ["axes.schedule=cycles", "axes.schedule.keep=0.5"]
    )
    assert config.find_method().resolved().to_dict()["schedule"] == {
        "name": "cycles",
        "keep": 0.5,
    }


ON_CPU = ["device=cpu", "compile=false", "amp=false"]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("cs", "939860f394"),
        ("l0", "e63db9bddc"),
        ("powerprop", "5c2249d477"),
        ("spred", "09f8694509"),
        ("str", "a29501d25c"),
    ],
)
def test_runs_keep_their_names_when_an_axis_value_is_renamed(
    method: str, name: str
) -> None:
    assert load_config("mnist5k-lenet5", [f"method={method}", *ON_CPU]).hash() == name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (("l0", "hard-concrete"), "d7e990e4ef"),
        (("power", "power-propagation"), "220c7f7512"),
        (("balanced", "balanced-product"), "ca18a6b4ad"),
        (
            (
                '{fc1: l0, "*": {name: balanced}}',
                '{fc1: hard-concrete, "*": balanced-product}',
            ),
            "2e66833e9f",
        ),
    ],
)
def test_former_and_present_names_of_an_axis_value_are_one_run(
    values: tuple[str, str], name: str
) -> None:
    for value in values:
        settings = ["method=random", *ON_CPU, f"axes.parameterization={value}"]
        assert load_config("mnist5k-lenet5", settings).hash() == name


def test_another_optimizer_drops_options_with_null() -> None:
    config = load_config(
        "mnist5k-lenet5", ["optimizer.name=adam", "optimizer.momentum=null"]
    )
    assert config.optimizer.options == {"weight_decay": 1e-4}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizr.lr=1", "did you mean 'optimizer'"),
        ("optimizer.momntum=1", "did you mean 'momentum'"),
        ("optimizer.name=sdg", "did you mean 'sgd'"),
        ("optimizer.lr=nan", "optimizer.lr"),
        ("optimizer=sgd", "optimizer"),
        ("learning_rate.warmpu=1", "did you mean 'learning_rate.warmup'"),
        ("learning_rate.curve=cosine", "did you mean 'cosine-warmup'"),
        ("method=lr", "did you mean 'lrr'"),
        ("axes.schedul=cycles", "did you mean 'schedule'"),
        ("axes.penalty={name: frobenius, strength: much}", "strength"),
        ("init=kaiming_norml", "did you mean 'kaiming_normal'"),
        ("epochs=x", "epochs"),
        ("epochs=0", "epochs"),
        ("sparsity=90", "sparsity"),
        ("device=gpu", "auto, cpu, cuda"),
        ("model=null", "model"),
        ("compile=maybe", "compile"),
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("optimizer.lr={a: [}", "not valid YAML"),
        ("epochs.much=3", "has no keys"),
    ],
)
def test_a_wrong_override_is_named_with_the_right_word(
    override: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("mnist5k-lenet5", [override])
    assert told in str(caught.value)


def test_missing_keys_unknown_recipes_and_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mnist5k-lenet5'"):
        load_config("mnist5k-lenet")
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    cases = {
        "model: [": "not valid YAML",
        "- 3": "expected keys and values",
        "model: lenet5": "optimizer is missing",
    }
    for text, told in cases.items():
        file = tmp_path / "bad.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError, match=told):
            load_config(file)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(SparsifyError, match="cannot read"):
        load_config(tmp_path / "binary.yaml")


def _hash(*overrides: str) -> str:
    return load_config("mnist5k-lenet5", overrides).hash()


def test_the_hash_covers_what_changes_the_result() -> None:
    assert re.fullmatch(r"[0-9a-f]{10}", _hash())
    same = [
        "checkpoint_every=3",
        "storage=living",
        "device=cpu",
        "compile=false",
        "axes.allocation=global",
        "optimizer.nesterov=null",
    ]
    for override in same:
        assert torch.cuda.is_available() or _hash(override) == _hash(), override
    assert _hash("method=lrr+signin") == _hash("method=signin+lrr")
    different = [
        "seed=1",
        "optimizer.lr=0.3",
        "label_smoothing=0.1",
        "compile=true",
        "amp=true",
        "init=kaiming_normal",
    ]
    different += ["axes.allocation=uniform", "axes.schedule={name: cycles, keep: 0.5}"]
    hashes = {_hash(), *(_hash(override) for override in different)}
    assert len(hashes) == 1 + len(different)


def test_a_resolved_configuration_round_trips_through_yaml(tmp_path: Path) -> None:
    config = load_config("cifar10-resnet20-signin").resolved()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert again.hash() == config.hash()
    assert isinstance(again, TrainConfig)


def test_an_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="use device=cpu or auto"):
        load_config("mnist5k-lenet5", ["device=cuda"]).resolved()
