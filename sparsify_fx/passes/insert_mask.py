"""InsertMask: `return θ` becomes `return θ * mask`."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsify_fx.errors import PassError
from sparsify_fx.passes.base import ProgramPass
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram, output_value


class InsertMask(ProgramPass):
    """Multiply every weight by a 0/1 mask: θ -> θ ⊙ mask.

    The mask is a uint8 buffer of the weight's shape. Where it is 0 the weight is exactly zero, gradients are exactly
    zero, and the factors hold the split of zero. A plain model is lifted first.

    Args:
        masks: a mask per weight name; None inserts all-ones masks and leaves existing ones alone.

    Raises PassError when a mask is missing, unknown, of another shape, or not 0/1.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> InsertMask({"weight": torch.tensor([[1, 0], [0, 1]])})(model).modified
    True
    >>> int((model.weight != 0).sum())
    2

    Source: [Gadhikar 2024], section 2 (masked network f(x | M θ)).
    """

    lifts = True

    def __init__(self, masks: Mapping[str, Tensor] | None = None) -> None:
        self.masks = masks

    def requires(self, graph_module: nn.Module) -> None:
        """Given masks must name every weight."""
        found = self.seen(graph_module)
        if self.masks is not None and set(self.masks) != set(found):
            odd = sorted(set(self.masks) ^ set(found))
            raise PassError(
                f"{self}: masks must name every prunable weight once; missing or unknown: {odd}"
            )
        super().requires(graph_module)

    def check(self, name: str, program: WeightProgram) -> None:
        """The given mask must have the weight's shape and hold only 0 and 1."""
        if self.masks is None:
            return
        mask, shape = self.masks[name], program.theta().shape
        if mask.shape != shape:
            raise self.fail(
                name,
                program,
                f"a mask of shape {tuple(shape)}, got {tuple(mask.shape)}",
            )
        if not ((mask == 0) | (mask == 1)).all():
            raise self.fail(name, program, "a mask of zeros and ones")

    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Add the buffer and the product; then write the mask."""
        # The buffer first, since `set_mask` writes into it.
        inserted = self._insert(program)
        return (
            self.masks is not None and program.set_mask(self.masks[name])
        ) or inserted

    def _insert(self, program: WeightProgram) -> bool:
        if program.current_mask() is not None:
            return False
        program.register_buffer(
            # uint8 takes a quarter of the memory of float32, and its product with a float is a float.
            "mask",
            torch.ones_like(program.theta(), dtype=torch.uint8),
        )
        self._multiply(program)
        return True

    @staticmethod
    def _multiply(program: WeightProgram) -> None:
        value = output_value(program)
        (output,) = value.users
        with program.graph.inserting_before(output):
            # θ * mask, not mask * θ: the product with two factors then saves one tensor less for backward.
            masked = program.graph.call_function(
                operator.mul, (value, program.graph.get_attr("mask"))
            )
        output.args = (masked,)
        program.recompile()

    def ensures(self, graph_module: nn.Module) -> None:
        """Every program must have a mask."""
        bare = [
            name
            for name, program in programs(graph_module).items()
            if program.current_mask() is None
        ]
        if bare:
            raise PassError(f"{self}: {bare} ended without a mask")
