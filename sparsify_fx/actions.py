"""Timed actions: what happens at fixed epochs within every training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparsify_fx.checkpoints.run_files import cycle_file, cycle_numbers, read_state
from sparsify_fx.errors import CheckpointError, MethodError
from sparsify_fx.masks import top_mask
from sparsify_fx.numerics import signed_like
from sparsify_fx.parameterizations import Balancing, Product
from sparsify_fx.passes import Rescale
from sparsify_fx.programs.owners import Subset, programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.registry import Registry
from sparsify_fx.schedules.occasion import Occasion


@runtime_checkable
class TimedAction(Protocol):
    """Something done to the model between two optimizer steps, after prunings and rewinds of the same step."""

    def epochs(self, run_epochs: int, run: int = 0, runs: int = 1) -> list[int]:
        """The epochs (0 is the start) of run number `run` of `runs` after which it happens."""

    def __call__(self, model: nn.Module, occasion: Occasion) -> None:
        """Change the model in place; the occasion tells the run, the epoch and the optimizers."""


ACTIONS: Registry[type[Any]] = Registry("action")


@ACTIONS.register("rescale")
@dataclass(frozen=True)
class RescaleEvery:
    """Restore m² − w² = β at the start of epoch i whenever i mod `every` = 0 and i < T2, for i = 1, 2, ...

    Attributes:
        every: p >= 1, in epochs.
        until: T2, in epochs of the run if an int, as a share of the run if a float in (0, 1].

    Source: [Gadhikar 2025], Algorithm 1; T2 in Table 7 (75 of 150 epochs on CIFAR, 75 of 100 on ImageNet, 225 of 300
    for DeiT).
    The paper leaves p open; 1 is our default.
    """

    every: int = 1
    until: int | float = 0.75

    def __post_init__(self) -> None:
        if (
            isinstance(self.every, bool)
            or not isinstance(self.every, int)
            or self.every < 1
        ):
            raise MethodError(
                f"rescale: every={self.every!r} must be a number of epochs >= 1"
            )
        # The type tells epochs from a share: 1 is one epoch, 1.0 the whole run.
        share = isinstance(self.until, float)
        if isinstance(self.until, bool) or not (
            0 < self.until <= 1 if share else self.until >= 1
        ):
            raise MethodError(
                f"rescale: until={self.until!r} must be epochs (int >= 1) or a share (float in (0, 1])"
            )

    def epochs(self, run_epochs: int, run: int = 0, runs: int = 1) -> list[int]:
        """Epoch i of the algorithm starts after i − 1 epochs."""
        stop = self.until * run_epochs if isinstance(self.until, float) else self.until
        return [
            # "At the start of epoch i" is after i − 1 epochs; the algorithm counts from 1.
            i - 1
            for i in range(1, run_epochs + 1)
            if i % self.every == 0 and i < stop
        ]

    def __call__(self, model: nn.Module, occasion: Occasion) -> None:
        """Rescale every weight of `model` that has a balance; PassError when none has."""
        Rescale()(balanced_part(model))


def balanced_part(model: nn.Module) -> nn.Module:
    """What of `model` a Rescale can work on: the weights whose parameterization has a balance, or all if none has.

    With parameterizations per layer some weights may be dense.
    """
    found = programs(model)
    having = {
        name: p
        for name, p in found.items()
        if isinstance(p.parameterization, Balancing)
    }
    # With none the whole model goes on to Rescale, whose error says what is missing.
    return Subset(having) if 0 < len(having) < len(found) else model


@ACTIONS.register("perturb-signs")
@dataclass(frozen=True)
class PerturbSigns:
    """Flip the signs of round(fraction · n) of the n living weights of each layer, at the start of one run.

    It comes after the pruning and the rewinds of that run. The weights are drawn from apply's seed and the run. Of a
    product m ⊙ w the factor w changes its sign; the optimizer's state stays as it is.

    Attributes:
        fraction: p in (0, 1].
        run: the run; in cycles that keep 0.8, run 1 trains at sparsity 0.2 and run 8 at 0.83.

    Raises MethodError for a fraction outside (0, 1], and in the Scheduler when there is no such run.

    Source: [Gadhikar 2024], section 3, Figs. 6 (30 % at sparsity 0.2) and 7 (80 % at sparsity 0.83).
    """

    fraction: float
    run: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.fraction, bool) or not 0 < self.fraction <= 1:
            raise MethodError(
                f"perturb-signs: fraction={self.fraction!r} must be in (0, 1], for instance 0.3"
            )
        if isinstance(self.run, bool) or not isinstance(self.run, int) or self.run < 0:
            raise MethodError(
                f"perturb-signs: run={self.run!r} must be the number of a run, 0 for the first"
            )

    def epochs(self, run_epochs: int, run: int = 0, runs: int = 1) -> list[int]:
        """The start of that run."""
        # Told when the Scheduler is built: the flips would else be left out without a word.
        if self.run >= runs:
            raise MethodError(
                f"perturb-signs: run={self.run} is beyond the {runs} run(s) of this schedule, which count from 0; "
                "ask for a higher sparsity, or give an earlier run"
            )
        return [0] if run == self.run else []

    def __call__(self, model: nn.Module, occasion: Occasion) -> None:
        """Flip the signs of the drawn weights; their magnitudes stay."""
        generator = occasion.generator("perturb-signs")
        for program in programs(model).values():
            theta = program.theta()
            living = (
                torch.ones_like(theta, dtype=torch.bool)
                if (mask := program.current_mask()) is None
                else mask == 1
            )
            drawn = (
                torch.rand(theta.shape, generator=generator, device="cpu")
                .to(theta.device)
                .masked_fill(~living, -1)
            )
            count = math.floor(self.fraction * int(living.sum()) + 0.5)
            _flip(program, top_mask(drawn, count) == 1)


@torch.no_grad()
def _flip(program: WeightProgram, where: Tensor) -> None:
    if isinstance(program.parameterization, Product):  # exact, and m² − w² stays
        program.put("w", -program.tensors()["w"], where)
    else:
        program.write(-program.theta(), where=where)


@ACTIONS.register("signs-of")
@dataclass(frozen=True)
class SignsOf:
    """`θ ← |θ| · sign(θ')` at the start of each run after the first, θ' of another run at the end of the same cycle.

    It comes after the pruning and the rewinds of that run; where θ' is zero the own sign stays.

    Attributes:
        source: a run folder that was trained with `save_cycles: true`, with the same model and schedule.

    Raises CheckpointError when it keeps no such cycle, or other weights.

    Source: [Gadhikar 2024], section 3, Figs. 7 and 12 (initial magnitudes, mask and signs of LRR).
    """

    source: str

    def epochs(self, run_epochs: int, run: int = 0, runs: int = 1) -> list[int]:
        """The start of every run but the first; the states of all of them must be there."""
        if run > 0 and run not in cycle_numbers(self.source):
            raise CheckpointError(
                f"{self.source} keeps no {cycle_file(run)}; use a run with the same sparsity and schedule"
            )
        return [0] if run > 0 else []

    def __call__(self, model: nn.Module, occasion: Occasion) -> None:
        """Give the living weights the signs that the other run had at the end of this cycle."""
        state, found = read_state(self.source, cycle=occasion.run), programs(model)
        odd = [
            n
            for n, program in found.items()
            if n not in state or state[n].shape != program.full_shape()
        ]
        if odd:
            raise CheckpointError(
                f"cycle {occasion.run} of {self.source} does not fit {odd[0]} of this model"
            )
        for name, program in found.items():
            theta, mask = program.theta(), program.current_mask()
            signed = signed_like(theta, state[name].to(theta.device))
            # Only where weights live: the factors of pruned ones must stay the split of zero.
            program.write(signed, where=None if mask is None else mask == 1)


def action_label(action: Any) -> tuple[str, str]:
    """(name, options) for the timeline: ("rescale", "every=1, until=0.75")."""
    name = ACTIONS.name_of(type(action)) or type(action).__name__
    return name, ", ".join(
        f"{field.name}={getattr(action, field.name)}" for field in fields(action)
    )
