"""The method that is asked for is the method that runs, whatever axes the recipe sets for its own."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
import yaml

from sparsify_fx.criteria import MasksOf
from sparsify_fx.errors import ConfigError
from sparsify_fx.recipe import find_method
from sparsify_fx.train import load_config, recipe_names

WITH_AXES = [name for name in recipe_names() if load_config(name).axes]
OTHERS = ("random", "gmp", "set", "str", "acdc+signin", "spred")


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        (method, recipe)
        for method, recipe in itertools.product(OTHERS, WITH_AXES)
        if method != load_config(recipe).method
    ],
)
def test_another_method_has_its_own_axes(
    recipe: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = load_config(recipe)
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        by_value, by_override = (
            load_config(recipe, values={"method": method}),
            load_config(recipe, [f"method={method}"]),
        )
    expected = find_method(method).resolved()
    assert (
        by_value.find_method().resolved()
        == by_override.find_method().resolved()
        == expected
    )
    assert by_value.axes == {}
    (line, _) = caplog.messages
    assert f"own method {own.method}" in line
    assert all(f"axes.{axis}=" in line for axis in own.axes)


@pytest.mark.parametrize("recipe", WITH_AXES)
def test_the_line_says_how_to_keep_them(
    recipe: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = load_config(recipe)
    other = "magnitude" if own.method == "gmp" else "gmp"
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        load_config(recipe, [f"method={other}"])
    told = caplog.messages[0].partition("To keep it: ")[2]
    options = [option.removesuffix('"') for option in told.split('--set "')[1:]]
    kept = load_config(
        recipe,
        [f"method={other}", *(option.strip().removesuffix('"') for option in options)],
    )
    assert kept.axes == own.axes


@pytest.mark.parametrize("recipe", WITH_AXES)
def test_its_own_method_keeps_them_in_any_order_of_a_sum(
    recipe: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = load_config(recipe)
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        same = load_config(
            recipe, [f"method={own.method}", "seed=0"], {"method": own.method}
        )
    assert same == own
    assert not caplog.messages


def write(path: Path, **content: object) -> Path:
    plain = load_config("mnist5k-lenet5").to_dict() | content
    path.write_text(yaml.safe_dump(plain))
    return path


def test_a_sum_is_the_same_in_any_order(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.yaml", method="lrr+signin", axes={"allocation": "erk"}
    )
    assert load_config(file, ["method=signin + lrr"]).axes == {"allocation": "erk"}
    assert load_config(file, ["method=lrr"]).axes == {}


def test_a_recipe_without_a_method_has_the_default_one(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.yaml", axes={"penalty": {"name": "frobenius", "strength": 0.5}}
    )
    text = "\n".join(
        line for line in file.read_text().splitlines() if not line.startswith("method")
    )
    file.write_text(text)
    assert load_config(file).method == "signin"
    assert load_config(file, ["method=signin"]).axes
    assert not load_config(file, ["method=random"]).axes


@pytest.mark.parametrize(
    "changes",
    [
        ["method=random", "axes.allocation=erk"],
        ["axes.allocation=erk", "method=random"],
        ["method=lrr", "axes.allocation=erk", "method=random"],
        ["axes={allocation: erk}", "method=random"],
    ],
)
def test_axes_that_the_user_sets_survive(changes: list[str]) -> None:
    config = load_config("cifar10-resnet20-signin", changes)
    assert config.axes == {"allocation": "erk"}
    values = {"method": "random", "axes": {"allocation": "erk"}}
    assert load_config("cifar10-resnet20-signin", values=values) == config


def test_an_axis_that_is_set_in_part_stays_for_that_part(tmp_path: Path) -> None:
    config = load_config(
        "cifar10-resnet18-imp-lrr-mask",
        ["method=imp", f"axes.criterion.run={tmp_path}"],
    )
    assert config.find_method().resolved().criterion == MasksOf(str(tmp_path))
    config = load_config(
        "cifar10-resnet20-signin", ["method=pilot", "axes.actions.every=3"]
    )
    assert config.axes == {"actions": {"name": "rescale", "every": 3, "until": 75}}


def test_an_unknown_method_is_told_as_such() -> None:
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        load_config("cifar10-resnet20-signin", ["method=randon"])
