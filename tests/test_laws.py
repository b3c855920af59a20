"""The laws of the design, over every registered method and the sums of two; a new method is covered without an edit.

The laws themselves are in `sparsify_fx.testing`, where plugins find them too.
"""

from __future__ import annotations

import itertools

import pytest

from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.testing import laws
from sparsify_fx.testing.training import SAVED_AT
from sparsify_fx.zoo import methods as _methods

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
every_method = pytest.mark.parametrize("method", ALL)


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
    ("kind", "amp"), [*((kind, False) for kind in laws.OPTIMIZERS), ("sgd", True)]
)
@every_method
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


@pytest.mark.parametrize("at", SAVED_AT)
@every_method
def test_a_resumed_training_ends_bit_identical(method: str, at: float) -> None:
    laws.resumed_training_is_bit_identical(method, at)


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(METHODS, 2)))
def test_a_plus_b_equals_b_plus_a(a: str, b: str) -> None:
    laws.sums_commute(a, b)


@every_method
def test_same_seed_same_bits(method: str) -> None:
    laws.same_seed_gives_same_bits(method)
