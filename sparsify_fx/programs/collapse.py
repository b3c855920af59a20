"""Layer collapse: masks that leave a layer without weights, or the net without a path from input to output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsify_fx.errors import CollapseWarning, warn
from sparsify_fx.masks import nonzeros
from sparsify_fx.programs.example_inputs import examples
from sparsify_fx.programs.flow import reaches_output, surely_connected
from sparsify_fx.programs.owners import current_masks, programs

# Of larger nets no copy is run: it may not fit beside the training.
_MOST_WEIGHTS = 200_000_000
_NAMED = 8  # layers that a sentence names
_REMEDY = (
    "keep some of every layer with min_per_layer= (16 weights, or 0.01 of each layer), divide the budget with "
    "allocation='erk' or 'balanced', or ask for a lower sparsity"
)


@dataclass(frozen=True)
class Collapse:
    """What masks have cut off; true in a condition when there is something to say.

    Attributes:
        empty: the names of the weights of which nothing is kept.
        connected: whether a path leads from the input to the output; None when nobody could find out.
        layers, kept, weights: how many there are.
    """

    empty: tuple[str, ...]
    connected: bool | None
    layers: int
    kept: int
    weights: int

    def __bool__(self) -> bool:
        return bool(self.empty) or self.connected is False

    def exceeds(self, before: Collapse | None) -> bool:
        """Whether there is more to say than `before`: another empty layer, or a path that was lost since."""
        if before is None:
            return bool(self)
        # By name: a layer may come back, by decompressing, at the update that empties another one.
        return bool(set(self.empty) - set(before.empty)) or (
            self.connected is False and before.connected is not False
        )

    def sentence(self) -> str:
        """The facts, for a timeline, a log or a report; empty when there is nothing to say.

        >>> Collapse(("fc2.weight",), None, 3, 20, 2000).sentence()
        '1 of 3 layers has no weight left: fc2.weight (20 of 2000 weights are kept); the output may be a constant'
        """
        if not self:
            return ""
        count = f"({self.kept} of {self.weights} weights are kept)"
        # Only the path is lost: no single layer is to blame, and none is named.
        if not self.empty:
            return f"no path leads from the input to the output any more {count}: the output is a constant"
        have = "has" if len(self.empty) == 1 else "have"
        empty = f"{len(self.empty)} of {self.layers} layers {have} no weight left: {listed(self.empty)} {count}"
        return (
            empty
            + {
                True: "; other layers still lead from the input to the output",
                False: "; no path leads from the input to the output any more: the output is a constant",
                None: "; the output may be a constant",
            }[self.connected]
        )

    def warn(self, when: str) -> None:
        """Give a CollapseWarning, if there is something to say.

        Args:
            when: the start of the sentence: "lrr at step 400".
        """
        if self:
            warn(f"{when}: {self.sentence()}; {_REMEDY}", CollapseWarning)


def find_collapse(
    model: nn.Module, masks: Mapping[str, Tensor], batches: Iterable[Any] | None = None
) -> Collapse:
    """What the masks cut off in the model, which need not hold them yet.

    Empty layers are always found. Whether a path is left is found out by running a copy of the model once
    (`flow.reaches_output`), but only where some row or column of a weight is empty: else there is one.

    Args:
        model: plain or rewritten; it stays as it is.
        masks: by weight name, 1 where a weight is kept; weights that are not named have the masks that they have now.
        batches: (inputs, targets) pairs in a list or tuple, whose inputs the model takes; without them shapes are
            guessed.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masks = {"0.weight": torch.tensor([[1] * 4, [0] * 4, [0] * 4]), "2.weight": torch.tensor([[0, 1, 1]] * 2)}
    >>> find_collapse(net, masks).sentence()
    'no path leads from the input to the output any more (8 of 18 weights are kept): the output is a constant'
    """
    empty = tuple(
        name for name, mask in masks.items() if mask.numel() and not mask.any()
    )
    # Other parts of the model keep their masks: a path may end in one of them.
    whole = current_masks(programs(model)) | dict(masks)
    total = sum(mask.numel() for mask in masks.values())
    # Cheap first: where every row and column keeps something, no run is needed, and that is nearly always.
    connected = True if surely_connected(whole) else None
    if connected is None and total <= _MOST_WEIGHTS:
        connected = reaches_output(model, whole, examples(model, batches))
    return Collapse(empty, connected, len(masks), nonzeros(masks), total)


def listed(names: Sequence[str]) -> str:
    """The names with commas; of many, the first ones and how many more there are.

    >>> listed(["a", "b"])
    'a, b'
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
