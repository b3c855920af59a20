"""prepare: everything that `sparsify_fx.apply` does to the weights of a model, as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparsify_fx.errors import LayerError, unknown
from sparsify_fx.parameterizations import ByLayer, Dense, Parameterization
from sparsify_fx.passes.insert_mask import InsertMask
from sparsify_fx.passes.lift import lift_layers
from sparsify_fx.passes.reparameterize import Reparameterize
from sparsify_fx.passes.transaction import untouched_on_error
from sparsify_fx.programs.owners import Subset
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.selection import Layer, matches


def prepare(
    model: nn.Module,
    layers: Mapping[str, Layer],
    masks: Mapping[str, Tensor] | None,
    parameterization: Parameterization | ByLayer,
) -> dict[str, WeightProgram]:
    """Lift, InsertMask and Reparameterize in one; after an error the model is as it was, to the bit.

    Weights that are trained themselves are zeroed where the mask is 0, in place, once nothing is left that could fail.

    Args:
        layers: the weights to rewrite, from `select_layers(model)`.
        masks: a mask per weight name (1 keeps); None: no masks.
        parameterization: of all weights, or by layer.

    Returns the new programs by weight name. Raises LayerError and PassError as these passes do.

    >>> from sparsify_fx.programs.selection import select_layers
    >>> model = nn.Linear(2, 2, bias=False)
    >>> masks = {"weight": torch.tensor([[1, 0], [0, 1]])}
    >>> list(prepare(model, select_layers(model), masks, Dense()))
    ['weight']
    >>> int((model.weight != 0).sum())
    2
    """
    # 1. What may fail without a model is tried first.
    chosen = assigned(parameterization, layers)
    with untouched_on_error(model):
        # 2. Lift: masks and factors need programs to be put into.
        found = lift_layers(layers)
        view = Subset(found)
        if masks is not None:
            # 3. Masks before factors: the split of a pruned weight is then that of zero.
            _MaskOnly(masks)(view)
        # 4. Factors, all weights of one parameterization together: a pass checks every program before it changes one.
        left = dict(found)
        while left:
            how = chosen[next(iter(left))]
            group = {name: left.pop(name) for name in list(left) if chosen[name] == how}
            if how != Dense():
                Reparameterize(how)(Subset(group))
    # 5. Only now are values written: tensors are not restored after an error.
    for name, program in found.items():
        # Random gates must not draw in a model that evaluates.
        program.train(layers[name].places[0][0].training)
        mask = program.current_mask()
        if mask is not None and program.parameterization == Dense():
            program.write(torch.zeros_like(program.theta()), where=mask == 0)
    return found


def assigned(
    how: Parameterization | ByLayer, names: Iterable[str]
) -> dict[str, Parameterization]:
    """The parameterization of every weight by its name.

    Among the patterns that match a weight the one with the fewest matches counts.

    Raises LayerError for a pattern that matches no weight, a weight that no pattern matches, and one for which two
    patterns with as many matches want different parameterizations.

    >>> from sparsify_fx.parameterizations import Product
    >>> assigned(ByLayer({"fc": Product(beta=2.0), "*": Dense()}), ["conv.weight", "fc.weight"])
    {'conv.weight': Dense(), 'fc.weight': Product(beta=2.0)}
    """
    names = list(names)
    if not isinstance(how, ByLayer):
        return dict.fromkeys(names, how)
    # Of all weights of this model: a pattern is narrow or wide by what it matches, not by how it is written.
    hits = {
        pattern: [name for name in names if matches(name, pattern)]
        for pattern in how.by_pattern
    }
    for pattern, hit in hits.items():
        if not hit:
            known = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
            raise LayerError(
                f"parameterization: {unknown('pattern of prunable layers', pattern, known)}"
            )
    return {name: _narrowest(how, name, hits) for name in names}


def _narrowest(
    how: ByLayer, name: str, hits: Mapping[str, list[str]]
) -> Parameterization:
    patterns = sorted(
        (pattern for pattern, hit in hits.items() if name in hit),
        # The text breaks ties, so that the error below names the same pair every time.
        key=lambda p: (len(hits[p]), p),
    )
    if not patterns:
        raise LayerError(
            f"parameterization: no pattern matches {name}; name it too, or give one for all others, such as "
            "'*': 'dense'"
        )
    first, *others = patterns
    for other in others:
        if (
            len(hits[other]) == len(hits[first])
            and how.by_pattern[other] != how.by_pattern[first]
        ):
            raise LayerError(
                f"parameterization: {first!r} and {other!r} both match {name}, and neither is the narrower one; name "
                f"the weight itself, {name!r}"
            )
    return how.by_pattern[first]


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
