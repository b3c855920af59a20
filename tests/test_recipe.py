from __future__ import annotations

import json
from dataclasses import fields

import pytest

from sparsify_fx.actions import RescaleEvery
from sparsify_fx.allocations import Balanced, Global, Uniform
from sparsify_fx.criteria import criterion_name
from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations import Dense, Product
from sparsify_fx.recipe import (
    AXES,
    METHODS,
    Axes,
    Method,
    axis_value,
    describe,
    find_method,
    merge_methods,
)
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import AtInit, Cycles, OneShot


@pytest.mark.parametrize(
    "name", ["dense", "random", "magnitude", "imp", "wr", "lrr", "signin"]
)
def test_every_method_has_a_summary_a_source_and_json_axes(name: str) -> None:
    method = find_method(name)
    assert method.summary.endswith(".")
    assert method.source
    axes = method.resolved().to_dict()
    assert set(axes) == set(AXES)
    again = {
        axis: axis_value(axis, value)
        for axis, value in json.loads(json.dumps(axes)).items()
    }
    resolved = method.resolved()
    assert again == {
        field.name: getattr(resolved, field.name) for field in fields(resolved)
    }


def test_named_methods_are_what_the_papers_say() -> None:
    lrr, wr, imp, signin = (
        find_method(name).resolved() for name in ("lrr", "wr", "imp", "signin")
    )
    assert lrr.schedule == wr.schedule == imp.schedule == Cycles(keep=0.8)
    assert lrr.rewind == Rewind(weights=None, optimizer="init", learning_rate="init")
    assert wr.rewind == Rewind(weights="warmup", optimizer="warmup")
    assert imp.rewind == Rewind(weights="init", optimizer="init")
    assert find_method("lrr-bn").resolved().rewind.batchnorm == "warmup"
    assert find_method("lrr-nowarmup").resolved().rewind.learning_rate == "warmup"
    assert signin.parameterization == Product(beta=1.0)
    assert (criterion_name(signin.criterion), signin.allocation, signin.schedule) == (
        "random",
        Balanced(),
        AtInit(),
    )
    assert find_method("random").resolved().parameterization == Dense()
    assert find_method("magnitude").resolved().schedule == OneShot()


def test_a_sum_takes_what_is_set_and_lets_suggestions_yield() -> None:
    both = find_method("signin+lrr")
    assert both.name == "lrr+signin"
    axes = both.resolved()
    assert axes.parameterization == Product(beta=1.0)
    assert axes.actions == (RescaleEvery(),)
    assert (criterion_name(axes.criterion), axes.allocation, axes.schedule) == (
        "magnitude",
        Global(),
        Cycles(),
    )


def test_a_sum_with_itself_is_itself_and_three_parts_work_in_any_order() -> None:
    assert find_method("lrr+lrr") == find_method("lrr")
    assert find_method("random+signin+random").name == "random+signin"


def test_contradictions_name_both_methods_and_the_axis() -> None:
    with pytest.raises(
        MethodError,
        match=r"cannot merge imp with lrr: on the axis 'rewind' imp has .* and lrr has",
    ):
        find_method("lrr+imp")
    strong = Method("strong", sets=Axes(actions=(RescaleEvery(every=5),)))
    with pytest.raises(MethodError, match="on the axis 'actions'"):
        merge_methods(METHODS["signin"], strong)
    assert merge_methods(
        METHODS["signin"], Method("same", sets=Axes(actions=(RescaleEvery(),)))
    ).sets.actions


def test_axis_values_come_as_objects_names_or_mappings() -> None:
    assert axis_value("allocation", "uniform") == Uniform()
    assert axis_value("allocation", Uniform()) == Uniform()
    assert axis_value("rewind", {"weights": 3}) == Rewind(weights=3)
    assert axis_value("actions", {"name": "rescale", "until": 75}) == (
        RescaleEvery(until=75),
    )
    assert axis_value("actions", [RescaleEvery()]) == (RescaleEvery(),)
    assert describe("actions", (RescaleEvery(),)) == [
        {"name": "rescale", "every": 1, "until": 0.75}
    ]
