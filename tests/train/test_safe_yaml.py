"""Recipes from anybody: bounded in time and memory, no key twice, and never an error that is not in words."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsify_fx.errors import ConfigError, SparsifyError
from sparsify_fx.train import TrainConfig, load_config
from sparsify_fx.train.safe_yaml import DEEPEST, MOST_VALUES, check_plain, parse_yaml

BASE = """
model: lenet300
data: mnist5k
method: lrr
epochs: 2
batch_size: 500
optimizer: {name: sgd, lr: 0.1}
"""


def chain(levels: int, first: str, following: str) -> str:
    """Anchors of which each repeats the one before several times."""
    lines = [
        f"a0: &a0 {first}",
        *(
            f"a{i}: &a{i} {following.replace('PREV', f'*a{i - 1}')}"
            for i in range(1, levels)
        ),
    ]
    return BASE + "\n".join(lines) + "\n"


BOMBS = {
    "lists": chain(40, "[x, x, x]", "[PREV, PREV, PREV]"),
    "mappings": chain(40, "{x: 1}", "{p: PREV, q: PREV}"),
    "merges": chain(40, "{x: 1, y: 2}", "{<<: [PREV, PREV], z: 1}"),
    "one long list": BASE + "a: &a [" + "x, " * 5000 + "x]\nb: [*a, *a, *a]\n",
    "many values": BASE + "snapshots_at: [" + "1, " * 50_000 + "1]\n",
    "brackets": BASE + "axes: " + "[" * 150_000,
    "braces": BASE + "axes: " + "{a: " * 500 + "1" + "}" * 500,
    "indents": BASE
    + "axes:\n"
    + "".join(" " * level + "a:\n" for level in range(1, 400)),
    "dashes": BASE + "axes:\n  " + "- " * 4000 + "1\n",
    "itself": BASE + "axes: &a {penalty: *a}\n",
    "itself in a list": BASE + "init_from: &a [*a]\n",
    "long": BASE + "# " + "x" * 10**7,
    "digits": BASE.replace("epochs: 2", "epochs: " + "9" * 100_000),
    "hexadecimal": BASE.replace("epochs: 2", "epochs: 0x" + "f" * 100_000),
    "base 60": BASE.replace("epochs: 2", "epochs: 1" + ":1" * 50_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(BOMBS[name])
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_config(file)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10
    assert peak < 50 * 2**20


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (BASE + "epochs: 3\n", "epochs"),
        (
            BASE + "axes: {schedule: cycles, allocation: erk, schedule: cubic}\n",
            "schedule",
        ),
        (BASE + "axes:\n  penalty:\n    name: l1\n    name: l1\n", "name"),
        (BASE.replace("lr: 0.1", "lr: 0.1, lr: 0.2"), "lr"),
        (BASE + '"seed": 1\nseed: 2\n', "seed"),
        (BASE + "augment: {<<: {flip: true}, <<: {crop_padding: 2}}\n", "<<"),
    ],
)
def test_a_key_given_twice_is_named_with_its_place(
    text: str, key: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=rf"the key '{key}' is given twice .*line \d+, column \d+"
    ):
        load_config(tmp_path / "recipe.yaml")


def test_aliases_and_merge_keys_that_multiply_nothing_work() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *a, z: *b}\nd: [*a, *a]\n"
    assert parse_yaml(text, "it") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": {"x": 1, "y": 3}},
        "d": [{"x": 1, "y": 2}] * 2,
    }


def test_the_limits_leave_room() -> None:
    deep = "[" * DEEPEST + "]" * DEEPEST
    parse_yaml(deep, "it")
    with pytest.raises(ConfigError, match="nested"):
        parse_yaml(f"[{deep}]", "it")
    parse_yaml(f"[{'1,' * (MOST_VALUES - 1)}]", "it")
    with pytest.raises(ConfigError, match="more than 10,000 values"):
        parse_yaml(f"[{'1,' * MOST_VALUES}]", "it")


ODD = """
2020-13-45|2020-02-30T25:61:00Z|!!float abc|!!int abc|!!bool abc|!!timestamp abc|!!binary '*'|!!null x|!!set {a}
!!omap [a: 1]|!!python/name:os.system|!unknown x|=|<<|*nowhere|? [a]|{[a]: 1}|{{a: 1}: 1}|.inf|-.inf|.nan|1e400|0x|0o7
1_0|''|[|&a|%|@|`
"""


@pytest.mark.parametrize("value", ODD.strip().replace("\n", "|").split("|"))
@pytest.mark.parametrize(
    "key",
    ["epochs", "sparsity", "axes", "optimizer.lr", "seed", "init_from", "include"],
)
def test_odd_values_are_told_or_taken(key: str, value: str) -> None:
    told = ""
    try:
        load_config("mnist5k-lenet5", [f"{key}={value}"])
    except SparsifyError as error:
        told = str(error)
    assert len(told) < 2000


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(LEAVES, inner),
    max_leaves=15,
)
KEYS = st.sampled_from(sorted(set(TrainConfig.model_fields) - {"data_root"}))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_values_are_told_or_taken(values: dict[str, Any]) -> None:
    with contextlib.suppress(SparsifyError):
        load_config("cifar10-resnet20-signin", values=values)


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from(list("ab:[]{}-,&*!?|>'\"#%@` \n\t0123456789.~<=")),
        max_size=60,
    )
)
def test_any_text_is_told_or_taken(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_yaml(text, "it")


def test_values_from_python_are_bounded_too() -> None:
    itself: dict[str, Any] = {}
    itself["axes"] = itself
    shared: Any = ["x"]
    for _ in range(30):
        shared = [shared, shared]
    for value in (
        itself,
        {"axes": {"penalty": shared}},
        {"epochs": 10**5000},
        [[[[]]] * 10**4] * 10**4,
    ):
        with pytest.raises(ConfigError, match="it "):
            check_plain(value, "it")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "epochs=1000000000000000000",
            "epochs: input should be less than or equal to 100000",
        ),
        ("epochs=1e18", "epochs: "),
        ("epochs=10**18", "epochs: input should be a valid integer"),
        (
            "axes.schedule={name: cycles, keep: 0.9999999}",
            "keep=0.9999999 makes cycles: 1.*e.07 of at most 10,000",
        ),
        ("axes.schedule={name: cycles, keep: 0.9999}", "at most 10,000"),
        (
            "image_size=1000000000",
            "image_size: input should be less than or equal to 16384",
        ),
        ("seed=1000000000000", "seed: input should be less than"),
    ],
)
def test_absurd_numbers_are_told_when_the_recipe_is_read(
    override: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config("mnist5k-lenet5", [override])


def test_runs_times_epochs_are_bounded() -> None:
    with pytest.raises(
        ConfigError, match=r"runs \(cycles\) of 100000 epochs are more than 1,000,000"
    ):
        load_config(
            "mnist5k-lenet5",
            ["epochs=100000", "axes.schedule={name: cycles, keep: 0.9}"],
        )


def test_padding_beyond_the_image_is_told(tmp_path: Path) -> None:
    from tests.train.common import quietly, small, write_images

    config = small(
        write_images(tmp_path / "mine.npz"),
        "method=random",
        "augment.crop_padding=1000000",
    )
    with pytest.raises(ConfigError, match="more than an image, which has 16 pixels"):
        quietly(config, tmp_path / "runs")
