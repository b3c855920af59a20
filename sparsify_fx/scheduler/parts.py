"""Parts: what one `apply` prepared. A model has one part, or several with plans of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from sparsify_fx.errors import MethodError
from sparsify_fx.plan import Plan, require_plan
from sparsify_fx.programs.owners import Subset, programs, qualified
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.progress import Progress


@dataclass(frozen=True, eq=False)
class Part:
    """The programs of one plan within a model.

    Attributes:
        name: the module that holds them, such as "backbone"; "" when the model has no other part.
        plan: what `apply` decided for them.
        prefix: the name of the module that `apply` was given, "" for the model itself.
        programs: by their names in that module.
        model: the whole model.
    """

    name: str
    plan: Plan
    prefix: str
    programs: Mapping[str, WeightProgram]
    model: nn.Module

    @property
    def root(self) -> nn.Module:
        """The module that `apply` was given."""
        return self.model.get_submodule(self.prefix)

    @property
    def progress(self) -> Progress:
        """How far the training of this part has come."""
        return next(iter(self.programs.values())).progress

    def view(self) -> nn.Module:
        """What passes, actions and penalties see: the root itself, or only its programs where it has others too."""
        return (
            self.root
            if len(programs(self.root)) == len(self.programs)
            else Subset(self.programs)
        )

    def named_in_model(self) -> dict[str, WeightProgram]:
        """The programs by their names in the whole model."""
        return {
            qualified(self.prefix, name): program
            for name, program in self.programs.items()
        }

    def total(self) -> int:
        """How many prunable weights it has, pruned ones included."""
        return sum(program.full_shape().numel() for program in self.programs.values())

    def says(self, text: str) -> str:
        """A message with the part's name in front, where there are several."""
        return f"{self.name}: {text}" if self.name else text


def parts_of(model: nn.Module, *, strict: bool = True) -> tuple[Part, ...]:
    """The parts of a prepared model, in module order.

    Raises MethodError for a model without a plan, and (`strict`) for programs of bare passes beside those of `apply`.

    >>> from sparsify_fx import apply
    >>> net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    >>> _ = apply(net[0], "gmp", sparsity=0.9), apply(net[1], "random", sparsity=0.25)
    >>> [(part.name, part.plan.sparsity) for part in parts_of(net)]
    [('0', 0.9), ('1', 0.25)]
    """
    require_plan(model)
    # By the identity of the plan: two calls of `apply` with equal arguments still make two parts.
    groups: dict[int, dict[str, WeightProgram]] = {}
    for name, program in programs(model).items():
        if program.plan is None and strict:
            raise MethodError(
                f"{name} has a weight program but no plan; call sparsify_fx.apply on it, or merge it"
            )
        if program.plan is None:
            continue
        groups.setdefault(id(program.plan), {})[name] = program
    names = _names(list(groups.values()))
    return tuple(
        _part(model, found, name)
        for found, name in zip(groups.values(), names, strict=True)
    )


def _part(model: nn.Module, found: Mapping[str, WeightProgram], name: str) -> Part:
    plan: Plan = next(iter(found.values())).plan
    prefix = _prefix(plan, found)
    start = len(prefix) + 1 if prefix else 0
    return Part(
        name,
        plan,
        prefix,
        {full[start:]: program for full, program in found.items()},
        model,
    )


def _prefix(plan: Plan, found: Mapping[str, WeightProgram]) -> str:
    """Where the module of `apply` is in the model; "" when the model was taken apart since."""
    # The plan knows names below the module of `apply`, `found` those below the model; what is before is its path.
    full = next(iter(found))
    known = [name for name in plan.weights if full == name or full.endswith(f".{name}")]
    # The longest of the names that fit is the whole path below the module of `apply`.
    prefix = full.removesuffix(max(known, key=len)).removesuffix(".") if known else ""
    return (
        prefix
        if all(not prefix or name.startswith(f"{prefix}.") for name in found)
        else ""
    )


def _names(groups: list[dict[str, WeightProgram]]) -> list[str]:
    """A name for each part: the module that holds it; its weights where parts share one module."""
    if len(groups) == 1:
        return [""]
    # A module names its part only where no other part lies in it; else the weights do.
    modules = [_common([name.rpartition(".")[0] for name in group]) for group in groups]
    alone = [
        module if module and modules.count(module) == 1 else "" for module in modules
    ]
    return [
        module or _listed(list(group))
        for module, group in zip(alone, groups, strict=True)
    ]


def _common(modules: list[str]) -> str:
    shared = []
    for steps in zip(*(module.split(".") for module in modules), strict=False):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    return ".".join(shared)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def belonging(parts: tuple[Part, ...], names: Iterator[str]) -> dict[str, int]:
    """The part that each tensor of a state dict (by its name in the model) goes with, by number.

    A tensor of a program belongs to the program's part. Any other belongs to the part that has a program in the
    smallest module around it; to the first where several have.
    """
    holders: dict[str, int] = {}
    # Backwards, so that of several parts with programs in one module the first has the last word.
    for number, part in reversed(list(enumerate(parts))):
        for name in part.named_in_model():
            module = name.rpartition(".")[0]
            # A program names its own tensors; the modules around it name biases and norms.
            holders[f"{name}_program"] = number
            while module:
                holders[module] = number
                module = module.rpartition(".")[0]
    return {name: _holder(holders, name) for name in names}


def _holder(holders: Mapping[str, int], name: str) -> int:
    while name:
        # From the inside out: the smallest module around a tensor decides.
        if name in holders:
            return holders[name]
        name = name.rpartition(".")[0]
    return 0
