"""The laws of the design, over every registered method and the sums of two; a new method is covered without an edit.

The laws themselves are in `sparsify_fx.testing`, where plugins find them too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.testing import laws
from sparsify_fx.testing.training import SAVED_AT
from sparsify_fx.zoo import methods as _methods
from tests.common import SWEEP

pytestmark = pytest.mark.slow

assert _methods  # the import fills the registry


# Sums with a method of each sort (a parameterization, a penalty, cycles); that a+b is b+a is shown for all pairs.
PARTNERS = ("signin", "pilot", "lrr")
PAIRS = [
    pair for pair in itertools.combinations(METHODS, 2) if set(pair) & set(PARTNERS)
]
SUMS = [f"{a}+{b}" for a, b in PAIRS if laws.mergeable(a, b)]
# The laws depend on the axes alone: of several names for one point the first is tested.
ALL = list(
    {
        repr(find_method(name).resolved()): name for name in reversed([*METHODS, *SUMS])
    }.values()
)[::-1]
# Sums that `pytest -m sweep` alone tries: nearly all; those that the papers rest on always run.
SWEPT = {
    name
    for number, name in enumerate(name for name in ALL if "+" in name)
    if number % 48 and name not in ("lrr+signin", "signin+lrr", "acdc+signin")
}
# Near relations of methods that always run: the same axes but for one.
SWEPT |= {
    *("cap", "grasp", "imp-rand", "lrr-nowarmup", "npb", "obd", "pilot-init"),
    *(
        "lrr-bn",
        "rare-gems",
        "set",
        "snfs",
        "snip",
        "srigl",
        "str-constant",
        "woodfisher",
    ),
}
every_method = pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=SWEEP if name in SWEPT else ()) for name in ALL],
)


def in_turn(variants: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Every method in one of the variants, in turn; `pytest -m sweep` has the rest."""
    found = []
    for number, method in enumerate(ALL):
        for place, variant in enumerate(variants):
            turn = (place - number) % len(variants)
            always = method not in SWEPT and turn == 0
            found.append(pytest.param(method, *variant, marks=() if always else SWEEP))
    return found


def test_there_are_sums() -> None:
    partners = ("acdc", "gmp", "imp", "lrr", "magnitude", "random", "rigl", "set", "wr")
    assert {"+".join(sorted((method, "signin"))) for method in partners} <= {
        "+".join(sorted(s.split("+"))) for s in SUMS
    }
    assert {"lrr+pilot", "pilot+wr"} <= set(SUMS)


@every_method
def test_apply_then_merge_returns_the_weights(method: str) -> None:
    laws.merge_returns_the_weights(method)


@every_method
def test_living_storage_trains_as_full_storage_does(method: str) -> None:
    laws.storages_train_alike(method)


@every_method
def test_the_counts_follow_the_schedule_and_end_on_the_exact_budget(
    method: str,
) -> None:
    laws.counts_follow_the_schedule(method)


@pytest.mark.parametrize(
    ("method", "kind", "amp"),
    in_turn([*((kind, False) for kind in laws.OPTIMIZERS), ("sgd", True)]),
)
def test_pruned_weights_are_zero_at_every_step(
    method: str, kind: str, amp: bool
) -> None:
    laws.pruned_weights_stay_zero(method, kind, amp)


@every_method
def test_pruned_weights_have_no_momentum_and_regrown_ones_start_from_zero(
    method: str,
) -> None:
    laws.no_momentum_is_left(method)


@every_method
def test_state_dict_round_trips_and_a_dense_checkpoint_is_split(method: str) -> None:
    laws.states_round_trip(method)


@pytest.mark.parametrize(("method", "at"), in_turn([(at,) for at in SAVED_AT]))
def test_a_resumed_training_ends_bit_identical(method: str, at: float) -> None:
    laws.resumed_training_is_bit_identical(method, at)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(*pair, marks=SWEEP if number % 3 else ())
        for number, pair in enumerate(itertools.combinations(METHODS, 2))
    ],
)
def test_a_plus_b_equals_b_plus_a(a: str, b: str) -> None:
    laws.sums_commute(a, b)


@every_method
def test_same_seed_same_bits(method: str) -> None:
    laws.same_seed_gives_same_bits(method)
