"""Parameter groups: on which parameters the optimizer's weight decay falls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import nn

from sparsify_fx.errors import ConfigError, unknown
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.tables.shown import Shown

GROUPS = {
    "factors": "what prunable weights are made of: dense, or m and w",
    "shared": "thresholds and gates of prunable weights",
    "norms": "norms and biases",
    "other": "every other parameter",
}
Decay = float | Mapping[str, float] | None


class ParameterGroups(Shown, list[dict[str, Any]]):
    """A list of groups for any optimizer, which prints as a table."""

    def table(self) -> Table:
        """One row a group: its name, tensors, entries and weight decay."""
        table = Table(
            "group",
            "of",
            "tensors",
            "entries",
            "weight decay",
            title="parameter groups",
        )
        for group in self:
            decay = (
                "the optimizer's"
                if "weight_decay" not in group
                else f"{group['weight_decay']:g}"
            )
            entries = sum(parameter.numel() for parameter in group["params"])
            kind = GROUPS[group["name"].partition(" ")[0]]
            table.add_row(
                group["name"], kind, str(len(group["params"])), str(entries), decay
            )
        return table

    def headline(self) -> str:
        """How many groups, and entries in all."""
        entries = 0
        for group in self:
            entries += sum(parameter.numel() for parameter in group["params"])
        return f"{len(self)} groups, {entries:,} entries"


def parameter_groups(
    model: nn.Module, weight_decay: Decay = None, **options: Any
) -> ParameterGroups:
    """The trainable parameters of a prepared model in up to four groups, each with its weight decay λ.

    The groups are "factors", "shared" (thresholds and gates), "norms" (norms and biases) and "other"; empty ones are
    left out. One λ for all falls where the method's paper lets it fall: not on factors that the method's own penalty
    decays (`pilot`, `pilot-init`, `spred`), not on thresholds that it decays (`str`), not on gates (`cs`, `l0`), and on
    everything for the other methods. In a model of several parts each follows its own method.

    Args:
        model: prepared by `sparsify_fx.apply`.
        weight_decay: λ >= 0; or λ by group, where a group that is not named gets 0; or None: the optimizer's own λ,
            and 0 where none should fall.
        options: further entries of every group, such as `lr`.

    Raises ConfigError for a λ that is no finite number >= 0, UnknownNameError for a group that there is not.

    >>> import sparsify_fx, torch
    >>> model = sparsify_fx.apply(nn.Linear(4, 2), method="spred", sparsity=0.5)
    >>> groups = parameter_groups(model, weight_decay=1e-4)
    >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
    [('factors', 2, 0.0), ('norms', 1, 0.0001)]
    >>> optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    Source: [Jacobs 2025], Tables 2 and 3 ("applied to the other parameters"); [Kusupati 2020], section 3;
    [Savarese 2020].
    """
    check_weight_decay(weight_decay)
    kinds = _kinds(model)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = kinds.get(parameter) or Kind(
                "norms" if _is_norm(model, name, parameter) else "other"
            )
            # By kind and decay: one group of an optimizer has one weight decay.
            group = groups.setdefault(
                (kind.group, kind.decays), _new_group(kind, weight_decay) | options
            )
            group["params"].append(parameter)
    # In one order whatever the model: optimizers save their state by the position of parameters.
    order = list(GROUPS)
    found = [
        groups[key]
        for key in sorted(groups, key=lambda key: (order.index(key[0]), not key[1]))
    ]
    # A kind may decay in one part and not in another; the names tell the two groups apart in tables and logs.
    for group in found:
        if (
            sum(other["name"] == group["name"] for other in found) > 1
            and group.get("weight_decay") == 0
        ):
            group["name"] += " without decay"
    return ParameterGroups(found)


@dataclass(frozen=True)
class Kind:
    """The group of a parameter, and whether the optimizer's decay falls on it by default."""

    group: str
    decays: bool = True


def _new_group(kind: Kind, weight_decay: Decay) -> dict[str, Any]:
    group: dict[str, Any] = {"params": [], "name": kind.group}
    if isinstance(weight_decay, Mapping):
        group["weight_decay"] = float(weight_decay.get(kind.group, 0.0))
    # Written out even where the optimizer has a decay of its own, which would fall here else.
    elif not kind.decays:
        group["weight_decay"] = 0.0
    elif weight_decay is not None:
        group["weight_decay"] = float(weight_decay)
    return group


def check_weight_decay(weight_decay: Decay) -> None:
    """ConfigError or UnknownNameError for a weight decay that `parameter_groups` does not take."""
    if isinstance(weight_decay, Mapping):
        for name in weight_decay:
            if name not in GROUPS:
                raise unknown("parameter group", str(name), GROUPS)
    values = (
        weight_decay.values() if isinstance(weight_decay, Mapping) else [weight_decay]
    )
    for value in values:
        # True is an int, and no weight decay.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and value >= 0):
            raise ConfigError(
                f"weight_decay={value!r} must be a finite number >= 0, or such a number by group"
            )


def without_decay(*axes: Any) -> frozenset[str]:
    """The groups on which a method's penalty and parameterization let no weight decay of the optimizer fall."""
    groups: set[str] = set()
    for axis in axes:
        groups.update(getattr(axis, "without_decay", ()))
    return frozenset(groups)


def _kinds(model: nn.Module) -> dict[nn.Parameter, Kind]:
    """The kind of every parameter of a weight program."""
    found: dict[nn.Parameter, Kind] = {}
    for program in programs(model).values():
        penalty = None if program.plan is None else program.plan.axes.penalty
        bare = without_decay(penalty, program.parameterization)
        for name, parameter in program.named_parameters():
            group = _group_in(program, name)
            found.setdefault(parameter, Kind(group, group not in bare))
    return found


def _group_in(program: WeightProgram, name: str) -> str:
    # Gates are factors by their shape, yet go with thresholds: a decay of weights is not meant for them.
    gates = getattr(program.parameterization, "gates", ())
    return (
        "factors"
        if name in program.parameterization.factors and name not in gates
        else "shared"
    )


def _is_norm(model: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a bias, or the scale of a norm: all that has one axis, and what lies in a norm of more axes."""
    module = model.get_submodule(name.rpartition(".")[0])
    # By name: libraries have norms of their own that share no base class.
    norm = any("norm" in cls.__name__.lower() for cls in type(module).__mro__)
    return parameter.dim() <= 1 or norm or name.endswith("bias")
