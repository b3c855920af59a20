"""IMP on synthetic data (Fig. 6) from near the teacher and from a blind start; AGD with one pruning (section 4.1).

The paper does not say where Fig. 6 starts. Section 5 starts Algorithm 1 near the teacher, and such a start knows most
of the teacher's mask before any training: the recall of the untrained weights says how much.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.common.statistics import Mean, mean_with_interval
from sparsify_fx.lab.sample_complexity.rates import asymptotic_rate, hessian_eigenvalues
from sparsify_fx.lab.sample_complexity.runs import SUCCESS, Size
from sparsify_fx.lab.sample_complexity.teacher import (
    Dense,
    Masked,
    draw_dense,
    draw_masks,
    draw_teacher,
    norm,
    perturbed,
)

Start = Callable[[Tensor, torch.Generator], Tensor]
STARTS: dict[str, Start] = {
    "near": lambda teacher, generator: perturbed(teacher, 0.5, generator),
    # As long as the teacher, in a direction that does not depend on it.
    "blind": lambda teacher, generator: perturbed(teacher, 1.0, generator) - teacher,
}
"""W⁽⁰⁾ of a teacher [runs, K, d]: half of |W*| away from it, or at random."""


@dataclass(frozen=True)
class Cycle:
    """After training at some sparsity: the share of weights left, test errors [runs], recalls of the teacher's mask."""

    left: float
    errors: Tensor
    recalls: Tensor

    @property
    def error(self) -> Mean:
        """The mean test error."""
        return mean_with_interval(self.errors)


@dataclass(frozen=True)
class Pruned:
    """IMP from one start with one number of samples; `untrained`: the recall of the untrained weights, [runs]."""

    untrained: Tensor
    cycles: tuple[Cycle, ...]


def recall(weights: Tensor, teacher: Tensor) -> Tensor:
    """Share of the teacher's mask among as many of the largest weights, [runs], by the best order of the neurons.

    The order of neurons changes no output, so that a learned network may have any.
    """
    count = int((teacher[0] != 0).sum())
    found = torch.zeros_like(weights).flatten(1)
    found = found.scatter_(1, weights.abs().flatten(1).topk(count, dim=1).indices, 1.0)
    # [runs, K, K]: how many inputs a neuron's mask has in common with each of the teacher's.
    shared = found.view_as(weights) @ (teacher != 0).to(weights.dtype).mT
    neurons = range(weights.shape[1])
    orders = [
        shared[:, neurons, list(order)].sum(1)
        for order in itertools.permutations(neurons)
    ]
    return torch.stack(orders).max(0).values / count


def sparse_teacher(size: Size, runs: int, generator: torch.Generator) -> Tensor:
    """W* as dense weights [runs, K, d] with `imp_kept` non-zeros in each neuron."""
    masks = draw_masks(runs, size.neurons, size.imp_width, size.imp_kept, generator)
    values = draw_teacher(runs, size.neurons, size.imp_kept, generator)
    return torch.zeros(runs, size.neurons, size.imp_width).scatter_(2, masks, values)


def pruned_errors(size: Size, seed: int) -> dict[tuple[str, int], Pruned]:
    """Fig. 6: IMP by start and N, which keeps 0.8 of the weights a cycle.

    The teacher is sparse, the student starts dense. Test error: root mean square over that of the labels, fresh data.
    """
    found = {}
    for start in size.imp_starts:
        for samples in size.imp_samples:
            found[start, samples] = _pruned(size, start, samples, seed)
    return found


def _pruned(size: Size, start: str, samples: int, seed: int) -> Pruned:
    # 1. A sparse teacher, data to train on, and data without noise to test on.
    generator = torch.Generator().manual_seed(seed)
    teacher = sparse_teacher(size, size.imp_runs, generator)
    data = draw_dense(teacher, samples, generator, noise=size.imp_noise)
    test = draw_dense(teacher, 2000, generator)

    # 2. Cycles: prune what training has made small, rewind the rest to the start, train.
    first = STARTS[start](teacher, generator)
    weights, kept, cycles = first, torch.ones_like(teacher), []
    entries = size.neurons * size.imp_width
    for cycle in range(size.imp_cycles):
        count = round(entries * 0.8**cycle)
        if cycle:
            kept = _largest(torch.where(kept > 0, weights.abs(), -1.0), count)
        weights = _masked_descent(size, data, first * kept, kept)
        error = _test_error(test, weights)
        cycles.append(Cycle(count / entries, error, recall(weights, teacher)))
    return Pruned(recall(first, teacher), tuple(cycles))


def _largest(score: Tensor, count: int) -> Tensor:
    """1 at the `count` largest scores of a run, over all neurons together."""
    flat = score.flatten(1)
    best = flat.topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter_(1, best, 1.0).view_as(score)


def _test_error(test: Dense, weights: Tensor) -> Tensor:
    off = (test.outputs(weights) - test.labels).square().mean(1).sqrt()
    return off / test.labels.square().mean(1).sqrt()


def _masked_descent(size: Size, data: Dense, start: Tensor, kept: Tensor) -> Tensor:
    """Algorithm 1 on dense weights whose pruned entries stay zero."""
    before = now = start
    for index in range(size.steps):
        gradient = kept * data.gradient(now)
        step = size.momentum * (now - before)
        now, before = now - size.rate * gradient + step, now
        # Asked every 20 steps only: the answer is no for hundreds of them.
        if (index + 1) % 20 == 0 and bool(
            (norm(now - before) < 1e-8 * norm(now)).all()
        ):
            break
    return now


@dataclass(frozen=True)
class Once:
    """AGD on the dense network and one pruning to the teacher's sparsity (section 4.1).

    exact: the share of runs whose mask is the teacher's; steps: AGD's until it is and stays so, their median (NaN where
    no run gets there); enough: T₁ = log(2 Ŵmax/Ŵmin) / log(1/ν), the median; success: the share that trains on to the
    teacher from there.
    """

    exact: float
    recall: Mean
    untrained: Mean
    steps: float
    enough: float
    success: float


def pruned_once(size: Size, seed: int) -> dict[tuple[str, int], Once]:
    """Section 4.1 without noise, by start and N."""
    found = {}
    for start in size.imp_starts:
        for samples in size.once_samples:
            found[start, samples] = _once(size, start, samples, seed)
    return found


def _once(size: Size, start: str, samples: int, seed: int) -> Once:
    # 1. AGD, which stops every 20 steps to look where its largest weights are.
    generator = torch.Generator().manual_seed(seed)
    teacher = sparse_teacher(size, size.once_runs, generator)
    data = draw_dense(teacher, samples, generator)
    first = STARTS[start](teacher, generator)
    count = size.neurons * size.imp_kept
    before = now = first
    since = torch.full((size.once_runs,), math.nan)
    for index in range(size.steps):
        step = size.momentum * (now - before)
        now, before = now - size.rate * data.gradient(now) + step, now
        if (index + 1) % 20 == 0:
            # A blind start finds the neurons in another order, so that masks are compared by `recall`.
            same = recall(now, teacher) == 1
            since = torch.where(same, since.nan_to_num(index + 1.0), math.nan)

    # 2. One pruning, and the rest of the training on the mask that it gives.
    kept = _largest(now.abs(), count)
    weights = _masked_descent(size, data, now * kept, kept)
    labels = data.labels.square().mean(1).sqrt()
    off = (data.outputs(weights) - data.labels).square().mean(1).sqrt() / labels
    return Once(
        float((~since.isnan()).double().mean()),
        mean_with_interval(recall(now, teacher)),
        mean_with_interval(recall(first, teacher)),
        float(since.nanmedian()),
        float(_enough(size, data, teacher).median()),
        float((off < SUCCESS).double().mean()),
    )


def _enough(size: Size, data: Dense, teacher: Tensor) -> Tensor:
    """T₁ of every run, with ν of the slowest mode at the teacher in place of the theorem's bound."""
    found = []
    for inputs, labels, weights in zip(data.inputs, data.labels, teacher, strict=True):
        seen = inputs.expand(1, len(weights), *inputs.shape)
        values = hessian_eigenvalues(Masked(seen, labels[None]), weights[None])
        rate = asymptotic_rate(values, size.rate, size.momentum)
        entries = weights[weights != 0].abs()
        found.append(math.log(2 * entries.max() / entries.min()) / -math.log(rate))
    return torch.tensor(found)
