"""Norms and sums of a batch whose parts are on two and four processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_fx.distributed.batch_norm import synchronize
from sparsify_fx.distributed.trees import PartialSums, tree_sum
from tests.common import swept
from tests.distributed.conftest import Results

both_sizes = pytest.mark.parametrize("ranks", [2, *swept([4])])


def test_a_sum_by_halves_is_that_of_its_subtrees() -> None:
    terms = [torch.rand(100) * 10.0**i for i in range(12)]
    halves = tree_sum(terms[:6]) + tree_sum(terms[6:])
    quarters = [tree_sum(terms[i : i + 3]) for i in range(0, 12, 3)]
    assert torch.equal(tree_sum(terms), halves)
    assert torch.equal(tree_sum(terms), tree_sum(quarters))
    assert not torch.equal(tree_sum(terms), sum(terms, start=torch.zeros(100)))


def test_a_gradient_that_comes_in_some_micro_batches_alone_is_kept() -> None:
    first, second = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    partial = PartialSums([first, second])
    first.grad, second.grad = torch.ones(2), 2 * torch.ones(2)
    partial.keep()
    assert first.grad is None
    first.grad = 4 * torch.ones(2)
    partial.finish()
    assert first.grad.tolist() == [5, 5]
    assert second.grad is not None
    assert second.grad.tolist() == [2, 2]
    assert not partial.waiting


def test_a_synchronized_norm_of_one_process_is_a_batch_norm() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(3))
    inputs = torch.randn(5, 3)
    expected = nn.BatchNorm1d(3)(inputs)
    synchronize(norm)
    assert torch.equal(norm(inputs), expected)
    assert list(norm.state_dict()) == list(
        nn.Sequential(nn.BatchNorm1d(3)).state_dict()
    )


@pytest.mark.slow
@both_sizes
def test_norms_over_all_parts_are_those_of_the_whole_batch(
    results: Results, ranks: int
) -> None:
    for seen in results("norms_over_all_parts", ranks):
        assert len(seen) == 4
        # Of gradients of a few hundred, in float64.
        assert max(seen.values()) < 1e-9, seen


@pytest.mark.slow
@both_sizes
def test_norms_with_code_of_their_own_are_refused(results: Results, ranks: int) -> None:
    for seen in results("norms_with_code_of_their_own", ranks):
        kind, text = seen["told"]
        assert kind == "DistributedError"
        assert "1 is a Activated" in text
        assert "sync_batch_norm to false" in text
        assert seen["kinds"] == ["BatchNorm2d", "Activated"], "nothing has changed"


@pytest.mark.slow
@both_sizes
def test_running_statistics_are_those_of_one_process(
    results: Results, ranks: int
) -> None:
    for seen in results("running_statistics", ranks):
        assert seen == {
            str(number): {"bits": True, "equal": True, "moved": True, "frozen": True}
            for number in range(4)
        }


@pytest.mark.slow
@both_sizes
def test_sums_by_the_tree_do_not_depend_on_the_ranks(
    results: Results, ranks: int
) -> None:
    for seen in results("sums_by_tree", ranks):
        assert seen == {str(n): {"bits": True, "other": False} for n in (8, 24)}
