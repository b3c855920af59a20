"""The model of a run as its checkpoint needs it, without the data and without scoring a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparsify_fx.errors import CheckpointError
from sparsify_fx.passes.prepare import prepare
from sparsify_fx.plan import Plan
from sparsify_fx.programs.progress import Progress
from sparsify_fx.programs.selection import select_layers
from sparsify_fx.schedules import Budget
from sparsify_fx.train.checks import REMEDY, check_model, check_parts
from sparsify_fx.train.config import TrainConfig


def at_checkpoint(
    model: nn.Module, config: TrainConfig, state: Mapping[str, Any]
) -> nn.Module:
    """The fresh model of a run, rewritten in place as `apply` does, with the weights and masks of a checkpoint.

    `apply` would choose masks first, for which some criteria need the data; the checkpoint's own replace them here.
    Raises CheckpointError for a checkpoint of another configuration.
    """
    method = config.find_method()
    axes = method.resolved()
    layers = select_layers(model, config.include, config.exclude)
    budget = Budget(
        sum(layer.weight.numel() for layer in layers.values()), config.sparsity
    )
    # Whether there are masks at all is the schedule's to say; what they keep comes with the state below, so masks of
    # ones stand in for it and no weight is scored.
    masks = None
    if axes.schedule.initial(budget) is not None:
        masks = {
            name: torch.ones_like(layer.weight, dtype=torch.uint8)
            for name, layer in layers.items()
        }
    # The model shall be as `apply` leaves it: what wants to know its method, such as `parameter_groups`, asks the plan.
    plan = Plan(method.name, axes, float(config.sparsity), config.seed, tuple(layers))
    progress = Progress()
    for program in prepare(model, layers, masks, axes.parameterization).values():
        program.plan, program.progress = plan, progress
    check_parts(state, ("model",))
    check_model(state["model"], model)
    # Extra states of programs are read by code of their own, so a foreign file fails in more ways than torch names.
    try:
        model.load_state_dict(state["model"])
    except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit its configuration ({error}); {REMEDY}"
        ) from error
    return model
