"""prepare: everything that `sparsify_fx.apply` does to the weights of a model, as a whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsify_fx.layers import Layer
from sparsify_fx.owners import Subset
from sparsify_fx.parameterizations import Dense, Parameterization
from sparsify_fx.passes.insert_mask import InsertMask
from sparsify_fx.passes.lift import lift_layers
from sparsify_fx.passes.reparameterize import Reparameterize
from sparsify_fx.program import WeightProgram
from sparsify_fx.transaction import untouched_on_error


def prepare(
    model: nn.Module,
    layers: Mapping[str, Layer],
    masks: Mapping[str, Tensor] | None,
    parameterization: Parameterization,
) -> dict[str, WeightProgram]:
    """Lift, InsertMask and Reparameterize in one; after an error the model is as it was, to the bit.

    Weights that are trained themselves are zeroed where the mask is 0, in place, once nothing is left that could fail.

    Args:
        layers: the weights to rewrite, from `select_layers(model)`.
        masks: a mask per weight name (1 keeps); None: no masks.

    Returns the new programs by weight name. Raises LayerError and PassError as these passes do.

    >>> from sparsify_fx.layers import select_layers
    >>> model = nn.Linear(2, 2, bias=False)
    >>> masks = {"weight": torch.tensor([[1, 0], [0, 1]])}
    >>> list(prepare(model, select_layers(model), masks, Dense()))
    ['weight']
    >>> int((model.weight != 0).sum())
    2
    """
    with untouched_on_error(model):
        found = lift_layers(layers)
        view = Subset(found)
        if masks is not None:
            _MaskOnly(masks)(view)
        if parameterization != Dense():
            Reparameterize(parameterization)(view)
    for name, program in found.items():
        program.train(layers[name].places[0][0].training)  # random gates are still in a model that evaluates
        mask = program.current_mask()
        if mask is not None and program.parameterization == Dense():
            program.write(torch.zeros_like(program.theta()), where=mask == 0)
    return found


class _MaskOnly(InsertMask):
    """InsertMask that leaves the factors alone."""

    def __str__(self) -> str:
        return InsertMask.__name__

    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Add the buffer with the mask, and the product."""
        assert self.masks is not None
        inserted = self._insert(program)
        program.get_buffer("mask").copy_(self.masks[name])
        return inserted
