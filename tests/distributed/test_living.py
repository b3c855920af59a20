"""Vectors of living entries in two and four processes: what is sent, and what cannot change any more."""

from __future__ import annotations

import pytest

from tests.common import swept
from tests.distributed.conftest import Results

pytestmark = pytest.mark.slow

both_sizes = pytest.mark.parametrize("ranks", [2, *swept([4])])


@both_sizes
def test_ranks_train_what_one_process_does_and_send_a_tenth(
    results: Results, ranks: int
) -> None:
    """For Sign-In with the hook, which sends one gradient for two factors, however they are spread over buckets."""
    for seen in results("traffic", ranks):
        assert all(found["equal"] for found in seen.values())
        assert max(found["gap"] for found in seen.values()) < 5e-6
        for name, found in seen.items():
            most = 0.25 if name.startswith("signin plain_hook") else 0.15
            assert found["share"] <= most, name
        assert {len(seen)} == {24}


@both_sizes
def test_the_hook_averages_accumulated_gradients(results: Results, ranks: int) -> None:
    for seen in results("accumulated", ranks):
        assert seen["equal"]
        assert seen["gap"] < 1e-5


@both_sizes
def test_terms_of_the_factors_are_told_or_kept(results: Results, ranks: int) -> None:
    for seen in results("terms_of_factors", ranks):
        assert seen["told"][0] == "DistributedError"
        assert "apply(..., penalty=...)" in seen["told"][1]
        assert seen["gap"] == 0


@pytest.mark.sweep
@both_sizes
def test_lengths_that_would_change_in_buckets_are_refused(
    results: Results, ranks: int
) -> None:
    for seen in results("lengths_that_would_change", ranks):
        assert seen["grown"][0] > 48 * 96 * 0.3, "before it is wrapped anything goes"
        assert "its buckets cannot grow" in seen["loaded"]
        for where in ("Muon", "Scheduler"):
            kind, text = seen[where]
            assert kind == "SchedulerError"
            assert 'storage="full") before you wrap the model' in text
        assert seen["unwrapped"] == [True, True, True]
        assert seen["early"][0] == "LayerError"
        assert "on the plain model first" in seen["early"][1]
        assert seen["full"] == [True, True, True]
