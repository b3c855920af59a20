"""The check of whole channels: half of the multiply-adds go, and the model becomes smaller for it."""

from __future__ import annotations

import torch
from torch import nn

import sparsify_fx
from sparsify_fx.budgets.counting import count_multiply_adds
from sparsify_fx.coverage.bench import Bench
from sparsify_fx.coverage.measure import difference, evaluate, train
from sparsify_fx.errors import CoverageError, SparsifyError

SHARE = 0.5
"""The multiply-adds that may be left."""

_NEAR = 1.1  # times what was asked for is near enough
_BOUND = 1e-5


def check_structured(bench: Bench) -> str:
    """Half of the multiply-adds go by channels: the shrunk model has the masked one's outputs, and trains."""
    model, inputs = bench.rebuilt().eval(), bench.trial.inputs
    before = count_multiply_adds(model, (inputs, {})).total
    try:
        sparsify_fx.apply(
            model,
            "magnitude",
            sparsity=1 - SHARE,
            budget="macs",
            granularity="channel",
            allocation="uniform",
            schedule="at-init",
            example_inputs=inputs,
        )
    except SparsifyError as error:
        raise CoverageError(f"{type(error).__name__}: {error}") from error
    masked = evaluate(model, inputs)
    sparsify_fx.merge(model)
    shrunk = sparsify_fx.shrink(model, inputs)
    found = difference(masked, evaluate(model, inputs))
    if found > _BOUND:
        raise CoverageError(f"the shrunk model's outputs differ by {found:.1e}")
    share = count_multiply_adds(model, (inputs, {})).total / before
    _check_training(model, bench)
    said = f"{share:.3f} of the multiply-adds, {shrunk.parameters[1] / shrunk.parameters[0]:.3f} of the parameters"
    if share > SHARE * _NEAR:
        raise CoverageError("; ".join([said, *shrunk.notes]))
    return said


def _check_training(model: nn.Module, bench: Bench) -> None:
    """One step; CoverageError where a parameter is not finite after it."""
    train(model, bench.trial.training, backward=True)
    torch.optim.SGD(model.parameters(), 1e-3).step()
    odd = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
    if odd:
        raise CoverageError(f"{odd[0]} is not finite after a step of the shrunk model")
