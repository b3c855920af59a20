"""The Pruner: changes the masks of a part in training, and the optimizers' state with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.allocations import RegrowingPattern
from sparsify_fx.criteria import Criterion, PruningContext, pruning_generator, rehearse
from sparsify_fx.criteria.choosing import checked_scores, choose, choose_masks
from sparsify_fx.living.followers import followed_by
from sparsify_fx.masks import nonzeros
from sparsify_fx.optimizer_states import check_layouts, following, settled
from sparsify_fx.optimizer_states.moves import Moving
from sparsify_fx.passes import Merge
from sparsify_fx.plan import Inputs, Plan
from sparsify_fx.programs.input_layouts import USUAL, input_layouts
from sparsify_fx.programs.owners import current_masks, programs
from sparsify_fx.scheduler.channel_moves import Waking, awake, write_woken
from sparsify_fx.scheduler.overshoot import find_overshoot
from sparsify_fx.scheduler.regrowth import (
    in_place,
    moved,
    moved_in_pattern,
    redistributed,
)
from sparsify_fx.scheduler.snapshots import clear_state
from sparsify_fx.scheduler.tickets import Tickets
from sparsify_fx.schedules.updates import Settled
from sparsify_fx.sharding import copy_in_full, shard, whole


@dataclass(frozen=True)
class Pruner:
    """What a mask update works on. Everything changes in place; pruned and regrown weights start from zero.

    Attributes:
        scored: the module that criteria evaluate on `inputs`.
        view: the programs, by their names in `scored`.
        tickets: masks that were looked at and not chosen.
    """

    scored: nn.Module
    view: nn.Module
    optimizers: Sequence[Optimizer]
    plan: Plan
    inputs: Inputs = field(default_factory=Inputs)
    tickets: Tickets = field(default_factory=Tickets)

    def reading(self, scored: nn.Module, view: nn.Module, inputs: Inputs) -> Pruner:
        """The same with other inputs, for another module around the same programs."""
        return replace(self, scored=scored, view=view, inputs=inputs)

    def masks(self) -> dict[str, Tensor]:
        """The current masks by weight name; empty for a method without masks."""
        return current_masks(programs(self.view))

    def rehearse(self, criterion: Criterion) -> None:
        """Let a criterion that scores during the training score once now, so that it fails before the work."""
        alive = self.masks()
        rehearse(criterion, self._context(criterion, nonzeros(alive), 0, alive))

    def prune(self, kept: int, draw: int) -> None:
        """Keep `kept` of the living weights by the method's criterion and allocation.

        Args:
            draw: number of the pruning; decides the random numbers together with apply's seed.
        """
        criterion = self.plan.axes.criterion
        masks, weights = choose(
            criterion, self._context(criterion, kept, draw, self.masks())
        )
        self._write(masks)
        if weights is not None:
            self._move(weights)

    def draw_ticket(self, kept: int, draw: int, rule: Settled, last: bool) -> None:
        """Prune, once in a training, as soon as the mask that this would choose has settled, or at the `last` look."""
        if self.tickets.drawn:
            return
        criterion = self.plan.axes.criterion
        context = self._context(criterion, kept, draw, self.masks())
        chosen = choose_masks(criterion, context)
        settled = self.tickets.look({n: whole(m) for n, m in chosen.items()}, rule)
        if settled or last:
            # Chosen again: criteria that move the weights that stay do so as they choose.
            self.prune(kept, draw)
            self.tickets.close()

    def settle(self, kept: int) -> None:
        """Open or close all gates for good; what was settled starts with fresh optimizer state.

        When fewer than `kept` weights would be left, those nearest to open come back, with an OvershootWarning.
        """
        # 1. Methods that sparsify by themselves may have closed too many; those are opened while their gates still tell
        # which are nearest.
        found = programs(self.view)
        overshoot = find_overshoot(
            found, kept, self.plan.axes.allocation, input_layouts(self.scored)
        )
        overshoot.warn(self.plan.method)
        overshoot.reopen(found)

        # 2. What is written loses its history: momentum would carry a closed gate open again.
        for program in found.values():
            for name in program.settle():
                settled(self.optimizers, program.get_parameter(name))

    def grow_all(self) -> None:
        """Every pruned weight comes back, from zero; whole channels with values in the rows that make them."""
        before = {name: mask.clone() for name, mask in self.masks().items()}
        self._write_groups({n: torch.ones_like(m) for n, m in before.items()}, before)

    def _write_groups(self, after: dict[str, Tensor], before: dict[str, Tensor]) -> None:  # fmt: skip
        """Masks, and where whole channels come back their first values."""
        allocation, found = self.plan.axes.allocation, programs(self.view)
        if not isinstance(allocation, Waking):
            self._write(after)
            return
        weights = {name: program.effective() for name, program in found.items()}
        self._write(after)
        # The number of living weights differs from update to update, and so do the values.
        generator = pruning_generator(self.plan.seed, nonzeros(before) % (1 << 20))
        woken = allocation.woken(weights, before, after, generator)
        with following(self.optimizers, self._factors()):
            write_woken(found, woken)

    def _factors(self) -> list[nn.Parameter]:
        factors: list[nn.Parameter] = []
        for program in programs(self.view).values():
            factors += program.factor_tensors().values()
        return factors

    def regrow(
        self,
        fraction: float,
        growth: Criterion,
        draw: int,
        redistribute: bool = False,
    ) -> None:
        """In each layer, drop `fraction` of the living weights by |θ| and grow as many of the others by `growth`.

        A weight that is dropped and grown at once keeps its value. The number of non-zeros of each layer stays, or with
        `redistribute` that of all together.
        """
        # Growth is scored before anything is dropped, on the weights that made the gradients.
        alive = self.masks()
        groups = self.plan.axes.allocation
        context = self._context(growth, nonzeros(alive), draw, alive)
        if isinstance(groups, Waking):
            before = {name: mask.clone() for name, mask in alive.items()}
            wanted = checked_scores(growth, awake(context, before, groups))
            masks = groups.regrown(context.weights, before, wanted, fraction)
            self._write_groups(masks, before)
            return
        wanted = checked_scores(growth, context)
        dropped, grown = (
            redistributed(alive, wanted, fraction)
            if redistribute
            else in_place(alive, fraction)
        )
        found, masks = programs(self.view), {}
        pattern, layouts = self.plan.axes.allocation, input_layouts(self.scored)
        for name, program in found.items():
            counts = dropped[name], grown[name]
            if isinstance(pattern, RegrowingPattern):
                masks[name] = moved_in_pattern(
                    pattern,
                    layouts.get(name, USUAL),
                    (program.effective(), alive[name], wanted[name]),
                    counts,
                    last=name == list(found)[-1],
                )
                continue
            weight = program.effective_in_place()
            masks[name] = moved(weight, alive[name], wanted[name], counts)
        self._write(masks)

    def _move(self, weights: dict[str, Tensor]) -> None:
        """Give the weights that live these values; what optimizers remember of them stays."""
        found, factors = programs(self.view), self._factors()
        # Averages and fast copies that an optimizer keeps would pull the weights back.
        with following(self.optimizers, factors):
            for name, program in found.items():
                mask = program.current_mask()
                assert mask is not None
                program.write(weights[name], where=mask == 1)

    def _context(
        self, criterion: Criterion, kept: int, draw: int, alive: dict[str, Tensor]
    ) -> PruningContext:
        found = programs(self.view)
        # What the layer sees, zeros included: criteria score weights and know nothing of factors.
        if getattr(criterion, "entrywise", False):
            weights = {n: program.effective_in_place() for n, program in found.items()}
        else:
            weights = {n: program.effective() for n, program in found.items()}
        alive = {name: shard(mask, weights[name]) for name, mask in alive.items()}
        return PruningContext(
            weights=weights,
            generator=pruning_generator(self.plan.seed, draw),
            kept=kept,
            allocation=self.plan.axes.allocation,
            alive=alive,
            model=self._merged() if "model" in criterion.needs else None,
            batches=self.inputs.batches,
            loss_fn=self.inputs.loss_fn,
            layouts=input_layouts(self.scored),
        )

    def _merged(self) -> nn.Module:
        """A plain copy, so that criteria need to know nothing of weight programs."""
        copied = copy_in_full(self.scored)
        Merge()(copied)
        return copied

    def _write(self, masks: dict[str, Tensor]) -> None:
        found = programs(self.view)
        # An optimizer whose state nobody can read is refused before a mask is written.
        check_layouts(self.optimizers, self._factors())

        living = {
            n: program for n, program in found.items() if program.places() is not None
        }
        # State follows the entries of vectors; what cannot is told before anything moves.
        for program in living.values():
            for factor in program.factor_tensors().values():
                Moving(self.optimizers, factor)

        # Pruned weights and those that come back: the values of both start from zero, and so must momentum.
        touched = {}
        for name, program in found.items():
            # Before `set_mask`, which writes into the same tensor.
            old = program.current_mask()
            assert old is not None
            # Chosen shard by shard, kept whole: a forward needs all of it, and would have to gather it each time.
            new = whole(masks[name]).to(old.device)
            touched[name] = (old == 0) | (new == 0)
            with followed_by(self.optimizers):
                program.set_mask(new)
        clear_state(
            self.view,
            self.optimizers,
            {name: entries for name, entries in touched.items() if name not in living},
        )
