"""The empirical Fisher information of a model in blocks, and what its inverse says of weights that go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.criteria.base import Masks, PruningContext, Scores
from sparsify_fx.criteria.fisher import sample_gradients
from sparsify_fx.criteria.objective import Weights
from sparsify_fx.distributed.ranks import sum_over_ranks
from sparsify_fx.numerics import widened

# Worked on together: 5 MB in float64 for blocks of 50, which stay in a cache over many passes.
_BLOCKS_AT_ONCE = 256
# (weights [blocks, block], F [blocks, block, block] in wide floats) -> [blocks, block].
OfBlocks = Callable[[Tensor, Tensor], Tensor]
# The same, given also which weights go and which stay.
Move = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How the Fisher information is read: blocks, λ, and samples as in `WoodFisher`."""

    criterion: str
    block: int
    damping: float
    samples: int
    chunk: int


@dataclass(frozen=True)
class BlockFisher:
    """F = λI + (1/N) Σ g gᵀ in blocks of consecutive weights of a layer, as float32 without λ.

    Attributes:
        weights: the weights when F was measured.
        blocks: (1/N) Σ g gᵀ by weight name, [blocks, block, block]; the last block is padded with zeros.
        damping: λ.
    """

    weights: Mapping[str, Tensor]
    blocks: dict[str, Tensor]
    damping: float

    def each(self, compute: OfBlocks, free: bool = False) -> Scores:
        """What `compute` gives for every weight, in its shape.

        Args:
            free: let go of the blocks of a layer once they are used.
        """
        found = {}
        for name, weight in self.weights.items():
            # Popped, so that the blocks of one layer are freed before those of the next are inverted.
            blocks = self.blocks.pop(name) if free else self.blocks[name]
            rows = _split(weight.flatten(), blocks)
            parts = [
                compute(widened(row), fisher)
                for row, fisher in zip(
                    torch.split(rows, _BLOCKS_AT_ONCE),
                    self._damped(blocks),
                    strict=True,
                )
            ]
            found[name] = _joined(parts, weight)
        return found

    def moved(self, masks: Masks, move: Move) -> Weights:
        """The weights after `move`, which is told which of the blocks' weights go and which stay."""
        found = {}
        for name, weight in self.weights.items():
            blocks = self.blocks[name]
            kept = _split(masks[name].flatten().to(weight.dtype), blocks) != 0
            rows = widened(_split(weight.flatten(), blocks))
            gone = ~kept & (rows != 0)
            # Blocks of which nothing goes stay as they are: late prunings touch few.
            touched = gone.any(1).nonzero().flatten()
            for some in torch.split(touched, _BLOCKS_AT_ONCE):
                (fisher,) = self._damped(blocks[some])
                rows[some] = move(rows[some], fisher, gone[some], kept[some])
            found[name] = _joined([rows * kept], weight).to(weight.dtype)
        return found

    def _damped(self, blocks: Tensor) -> Iterator[Tensor]:
        for part in torch.split(blocks, _BLOCKS_AT_ONCE):
            wide = widened(part).clone()
            # Fewer samples than weights in a block make F singular; λI is what lets it be inverted at all.
            wide.diagonal(dim1=1, dim2=2).add_(self.damping)
            yield wide


def block_fisher(context: PruningContext, how: Sampling) -> BlockFisher:
    """F of the weights that are alive; in a process group that of the samples of all ranks."""
    sums, count = sum_over_ranks(
        f"the Fisher blocks of {how.criterion}", lambda: _sums(context, how)
    )
    # In place: these are the largest tensors here, `block` times the weights.
    blocks = {name: total.div_(count) for name, total in sums.items()}
    return BlockFisher(context.weights, blocks, how.damping)


def _sums(context: PruningContext, how: Sampling) -> tuple[Weights, int]:
    sums: dict[str, Tensor] = {}
    count = 0
    for gradients in sample_gradients(context, how.chunk, how.samples):
        for name, gradient in gradients.items():
            # Pruned weights take no part in F: an update of the block could not move them.
            alive = 1 if context.alive is None else context.alive[name]
            g = _blocks((gradient * alive).flatten(1), how.block)
            outer = torch.einsum("cni,cnj->nij", g, g)
            sums[name] = sums[name].add_(outer) if name in sums else outer
        count += len(next(iter(gradients.values())))
    return sums, count


def _blocks(rows: Tensor, block: int) -> Tensor:
    """[samples, weights] -> [samples, blocks, block] in float32, the last block padded with zeros."""
    size = min(block, rows.shape[1])
    missing = -rows.shape[1] % size
    return torch.nn.functional.pad(rows.float(), (0, missing)).reshape(
        len(rows), -1, size
    )


def _split(flat: Tensor, blocks: Tensor) -> Tensor:
    """[weights] -> [blocks, block], padded with zeros."""
    missing = len(blocks) * blocks.shape[1] - len(flat)
    return torch.nn.functional.pad(flat, (0, missing)).reshape(len(blocks), -1)


def _joined(parts: list[Tensor], weight: Tensor) -> Tensor:
    # What was padded are weights that do not exist.
    return torch.cat(parts).reshape(-1)[: weight.numel()].reshape(weight.shape)
