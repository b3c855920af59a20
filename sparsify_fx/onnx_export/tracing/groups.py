"""Channels and heads that masks made dead are cut out of the copy, before it is traced."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsify_fx.errors import SparsifyError
from sparsify_fx.onnx_export.tracing.inputs import Inputs
from sparsify_fx.plan import plans_of


def cut_dead_groups(
    copied: nn.Module, model: nn.Module, inputs: Inputs
) -> tuple[str, ...]:
    """Shrink the merged copy of a model that was pruned in whole channels or heads; why not, if it stays as it is.

    The passes over ONNX graphs find dead channels by themselves, but leave the heads of attention, whose sizes stand in
    reshapes. Other models are left to those passes: what is cut here takes a trace of its own.
    """
    # By what they can do: the package of granularities stands above this one.
    groups = [plan.axes.allocation for plan in plans_of(model)]
    cuts = [each.cut_dead for each in groups if hasattr(each, "cut_dead")]
    if not cuts:
        return ()
    if _shared(copied, model):
        return (
            "dead channels are left to the passes: the model's copies share memory",
        )
    if inputs.args and inputs.kwargs:
        return ("dead heads stay: give all example inputs by name, or none",)
    given: Any = inputs.kwargs or inputs.args
    try:
        cuts[0](copied, given)
    except SparsifyError as error:
        return (f"dead heads stay: {error}",)
    return ()


def _shared(copied: nn.Module, model: nn.Module) -> bool:
    """Whether cutting the copy would cut the model: a `__deepcopy__` of the user's may share what it likes."""
    own = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in own for parameter in copied.parameters())
