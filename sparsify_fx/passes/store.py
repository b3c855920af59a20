"""StoreLiving and StoreFull: `return θ * mask` becomes `return place(θ, living, mask)`, and back.

`return m * w * mask` becomes `return place(m, living, mask, w)`, where the product is never in memory by itself.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsify_fx.living.compiling import let_lengths_change
from sparsify_fx.living.moving import sources
from sparsify_fx.living.place import place, places_of
from sparsify_fx.living.stored import LIVING, move_entries
from sparsify_fx.passes.base import ProgramPass
from sparsify_fx.programs.program import WeightProgram, output_value


class StoreLiving(ProgramPass):
    """Keep factors, and with them gradients and optimizer state, for the living entries alone.

    The values of a weight stay the same, bit for bit. Factors become vectors [n, 1, ...] over the entries that the mask
    keeps; the parameters stay the same objects. Every parameterization whose value is made entry by entry can be
    stored so: one threshold for each channel cannot.

    Raises PassError where there is no mask, or the parameterization shares tensors between some of the entries.

    >>> from sparsify_fx.passes import InsertMask
    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = InsertMask({"weight": torch.tensor([[1, 0], [0, 1]])})(model)
    >>> StoreLiving()(model).modified
    True
    >>> model.weight_program.dense.shape
    torch.Size([2, 1])
    """

    def check(self, name: str, program: WeightProgram) -> None:
        """There must be a mask, and no tensor that some entries share."""
        if program.current_mask() is None:
            raise self.fail(name, program, "a mask; run InsertMask first")
        for shared, tensor in program.shared_tensors().items():
            if tensor.dim() > 0:
                shape = tuple(tensor.shape)
                expected = (
                    f"no tensor that some entries share, found {shared} of {shape}"
                )
                raise self.fail(name, program, expected)

    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Swap the product with the mask for `place`, and let the vectors take the place of the tensors."""
        mask = program.current_mask()
        assert mask is not None
        if program.places() is not None:
            return False
        places = places_of(mask)
        move_entries(program, sources(_all(mask), places, program.room(mask)))
        program.register_buffer(LIVING, places, persistent=False)
        product = output_value(program)
        with program.graph.inserting_before(product):
            living = program.graph.get_attr(LIVING)
        value, kept = product.args
        factors = _factors(value)
        if factors is None:
            product.target, product.args = place, (value, living, kept)
        else:
            one, other = factors
            product.target, product.args = place, (one, living, kept, other)
            assert isinstance(value, fx.Node)
            program.graph.erase_node(value)
        program.recompile()
        let_lengths_change()
        return True

    def ensures(self, graph_module: nn.Module) -> None:
        """Every program must be in living storage."""
        assert all(p.places() is not None for p in self.seen(graph_module).values())


class StoreFull(ProgramPass):
    """Keep factors, gradients and optimizer state for all entries: the inverse of `StoreLiving`.

    Dead entries hold the split of zero. Gradients are zero there.

    >>> from sparsify_fx.passes import InsertMask
    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = InsertMask({"weight": torch.tensor([[1, 0], [0, 1]])})(model)
    >>> _ = StoreLiving()(model)
    >>> StoreFull()(model).modified
    True
    >>> model.weight_program.dense.shape
    torch.Size([2, 2])
    """

    def check(self, name: str, program: WeightProgram) -> None:
        """Nothing can be wrong."""

    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Swap `place` for the product with the mask, and the vectors for tensors of the weight's shape."""
        mask, places = program.current_mask(), program.places()
        if places is None:
            return False
        assert mask is not None
        every = _all(mask)
        move_entries(program, sources(places, every, len(every)), mask.shape)
        del program._buffers[LIVING]
        program._non_persistent_buffers_set.discard(LIVING)
        placed = output_value(program)
        value, living, kept, *factors = placed.args
        if factors:
            with program.graph.inserting_before(placed):
                value = program.graph.call_function(operator.mul, (value, *factors))
        placed.target, placed.args = operator.mul, (value, kept)
        assert isinstance(living, fx.Node)
        program.graph.erase_node(living)
        program.recompile()
        return True


def _factors(value: Any) -> tuple[fx.Node, fx.Node] | None:
    """Both factors where the value is the product of two of the program's own tensors, which `place` makes on its way.

    Nothing else may want the product itself.
    """
    if value.target is not operator.mul or len(value.users) != 1:
        return None
    one, other = value.args
    tensors = [
        isinstance(each, fx.Node) and each.op == "get_attr" for each in value.args
    ]
    return (one, other) if all(tensors) and one is not other else None


def _all(mask: Tensor) -> Tensor:
    """The places of all entries, dead ones too."""
    kind = torch.int32 if mask.numel() < 2**31 else torch.int64
    return torch.arange(mask.numel(), dtype=kind, device=mask.device)
