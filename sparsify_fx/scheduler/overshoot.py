"""Methods that sparsify by themselves and went too far: the best closed weights are opened again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from sparsify_fx.allocations import Allocation
from sparsify_fx.criteria.choosing import allocated
from sparsify_fx.errors import OvershootWarning, warn
from sparsify_fx.parameterizations import Reopening
from sparsify_fx.programs.input_layouts import Layouts
from sparsify_fx.programs.program import WeightProgram

Programs = Mapping[str, WeightProgram]


@dataclass(frozen=True)
class Overshoot:
    """What is missing when gates are settled now; true in a condition when something is.

    Attributes:
        asked: weights that are to stay.
        left: weights that are not zero once all gates are settled.
        weights: how many there are.
        zeros: weights that will be kept as zeros, since there is nothing to open.
        where: by weight name, True at the entries to open.
    """

    asked: int
    left: int
    weights: int
    zeros: int
    where: Mapping[str, Tensor] = field(repr=False)

    @property
    def opened(self) -> int:
        """How many closed weights will be open again."""
        return sum(int(part.count_nonzero()) for part in self.where.values())

    def __bool__(self) -> bool:
        return self.opened + self.zeros > 0

    def sentence(self) -> str:
        """The facts; empty when nothing is missing.

        >>> Overshoot(100, 70, 1000, 5, {"fc.weight": torch.arange(500) < 25}).sentence()
        '70 of 1000 weights are left, 100 were asked for: the 25 nearest to open come back, 5 are kept as zeros'
        """
        if not self:
            return ""
        back = (
            f"the {self.opened} nearest to open come back"
            if self.opened
            else "none can be opened"
        )
        zeros = f", {self.zeros} are kept as zeros" if self.zeros else ""
        return f"{self.left} of {self.weights} weights are left, {self.asked} were asked for: {back}{zeros}"

    def warn(self, when: str) -> None:
        """Give an OvershootWarning, if something is missing."""
        if self:
            warn(
                f"{when} went beyond the requested sparsity: {self.sentence()}; give the penalty less strength or "
                "reach, train for more epochs, or ask for a higher sparsity",
                OvershootWarning,
            )

    @torch.no_grad()
    def reopen(self, programs: Programs) -> None:
        """Open the gates at `where`, in place, so that settling leaves these weights other than zero."""
        for name, program in programs.items():
            # A layer that lacks nothing may have another parameterization, without gates to open.
            if not self.where[name].any():
                continue
            assert isinstance(program.parameterization, Reopening)
            opened = program.parameterization.opened(
                program.tensors(), self.where[name]
            )
            for factor, value in opened.items():
                program.put(factor, value)


def find_overshoot(
    programs: Programs,
    kept: int,
    allocation: Allocation,
    layouts: Layouts = MappingProxyType({}),
) -> Overshoot:
    """Which closed weights have to open so that `kept` weights, divided by the allocation, are other than zero.

    The largest settled weights stay, as far as they go; after them come the closed ones, those nearest to open first
    (`Reopening.nearness`), and last the weights that are zero whatever their gate.
    """
    # 1. Rank all weights: open ones by size, below them the closed ones, those nearest to open first.
    settled = {name: program.settled() for name, program in programs.items()}
    alive = {name: _alive(program) for name, program in programs.items()}
    nearness = {name: _nearness(program) for name, program in programs.items()}
    # The nearest of all is shifted to 0, so that every closed weight ranks below every open one.
    best = max(float(near.max()) for near in nearness.values())
    scores = {
        name: _ranked(
            settled[name],
            nearness[name] - (best if best > -math.inf else 0.0),
            alive[name],
        )
        for name in programs
    }

    # 2. Divide the budget as the pruning that follows will, or it would prune what was opened here.
    masks = allocated(allocation, scores, alive, kept, layouts)

    # 3. Missing are weights that this keeps and settling closes; some of them nothing can open.
    missing = {name: (mask != 0) & (settled[name] == 0) for name, mask in masks.items()}
    where = {
        name: lack & (nearness[name] > -math.inf) for name, lack in missing.items()
    }
    left = sum(int(value.count_nonzero()) for value in settled.values())
    lacking = sum(int(lack.count_nonzero()) for lack in missing.values())
    opened = sum(int(part.count_nonzero()) for part in where.values())
    weights = sum(value.numel() for value in settled.values())
    return Overshoot(kept, left, weights, lacking - opened, where)


def _ranked(settled: Tensor, nearness: Tensor, alive: Tensor) -> Tensor:
    """abs(θ) of open weights; nearness (at most 0) − 1 of closed ones; the lowest number where there is only zero."""
    # −inf is for entries outside of the mask; what cannot be opened ranks right above them, and is kept as a zero.
    closed = (nearness - 1).clamp_min(torch.finfo(torch.float64).min)
    # In float64, as nearness is: in float32 close scores would become ties.
    return torch.where(settled != 0, settled.abs().double(), closed).masked_fill(
        alive == 0, -math.inf
    )


def kept_zeros(programs: Programs) -> int:
    """Weights that the masks keep and that are exactly zero all the same: grown ones that never moved, closed ones.

    They count in the sparsity that was asked for, and as zeros in an exported file.

    >>> from sparsify_fx import apply
    >>> from sparsify_fx.programs.owners import programs
    >>> model = apply(torch.nn.Linear(4, 2), "dense")
    >>> with torch.no_grad():
    ...     _ = model.weight_program.dense[0].zero_()
    >>> kept_zeros(programs(model))
    4
    """
    return sum(
        int((_alive(program) != 0).count_nonzero())
        - int(program.effective().count_nonzero())
        for program in programs.values()
    )


def _alive(program: WeightProgram) -> Tensor:
    mask = program.current_mask()
    return torch.ones_like(program.theta(), dtype=torch.uint8) if mask is None else mask


def _nearness(program: WeightProgram) -> Tensor:
    """How near each entry is to open (float64); −inf where nothing can be opened."""
    how = program.parameterization
    if not isinstance(how, Reopening):
        return torch.full_like(program.theta(), -math.inf, dtype=torch.float64)
    return how.nearness(program.tensors()).double()
