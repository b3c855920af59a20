"""torch's block sparse tensors (BSR): whole blocks of zeros are not stored, and not multiplied."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.handing_on.plain import close, prunable


@dataclass(frozen=True)
class BlockSparse:
    """Which layers torch can store in blocks.

    Attributes:
        block: rows and columns of a block.
        layers: by name of the weight, the share of blocks that are stored.
        reasons: why the others stay dense, by name.
    """

    block: tuple[int, int]
    layers: dict[str, float]
    reasons: dict[str, str]

    def __str__(self) -> str:
        told = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        size = "x".join(map(str, self.block))
        said = f"{len(self.layers)} layers fit blocks of {size}"
        return said + (f"; not {told}" if told else "")


def block_sparse_layers(model: nn.Module, block: tuple[int, int]) -> BlockSparse:
    """Which weights of a merged model are worth storing in blocks [rows, columns]; nothing is changed.

    A weight [outputs, inputs] fits when the layer is linear, blocks divide it, and more than half of its zeros lie in
    blocks of zeros: those alone are left out. `apply(model, granularity="block:32x32")` trains such masks.

    Raises ExportError for a block that is not two positive numbers, a rewritten model, or one without zeros.

    >>> import sparsify_fx
    >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> options = {"schedule": "at-init", "granularity": "block:16x16", "sparsity": 0.5}
    >>> net = sparsify_fx.merge(sparsify_fx.apply(net, "magnitude", include="0", **options))
    >>> print(block_sparse_layers(net, (16, 16)))
    1 layers fit blocks of 16x16; not 2.weight: 10 x 64 is no multiple of 16 x 16
    """
    if len(block) != 2 or any(type(side) is not int or side < 1 for side in block):
        raise ExportError(
            f"block={block!r}: expected rows and columns of at least 1, such as (32, 32)"
        )
    layers: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name, weight in prunable(model).items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if reason := _reason(owner, weight, block):
            reasons[name] = reason
        else:
            layers[name] = float(_stored(weight, block).float().mean())
    return BlockSparse(block, layers, reasons)


def to_block_sparse(model: nn.Module, block: tuple[int, int]) -> BlockSparse:
    """Store the fitting weights of a merged model as torch's BSR tensors, in place; the forward stays what it is.

    On a CPU products are MKL's, which wants square blocks; on a GPU their side must be a power of two of at least 16.
    Layers that do not fit stay as they are and are told. The weights cannot be trained afterwards.

    Raises ExportError, with nothing changed, as `block_sparse_layers` does, when no layer fits, and where this torch
    cannot multiply by such blocks on the model's device.
    """
    found = block_sparse_layers(model, block)
    if not found.layers:
        size = "x".join(map(str, block))
        raise ExportError(f"no layer fits: {found}; prune with granularity='block:{size}'")  # fmt: skip
    made = {}
    for name in found.layers:
        weight = model.get_parameter(name).detach()
        made[name] = _in_blocks(weight, block)
        _check_product(name, weight, made[name])
    for name, weight in made.items():
        owner, _, tensor = name.rpartition(".")
        new = nn.Parameter(weight, requires_grad=False)
        setattr(model.get_submodule(owner), tensor, new)
    return found


def _in_blocks(weight: Tensor, block: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # That these tensors are in beta is told in our docs; a warning would come up at the first use alone.
        warnings.filterwarnings("ignore", "Sparse BSR tensor support", UserWarning)
        blocks: Tensor = weight.to_sparse_bsr(block)
    return blocks


def _reason(owner: nn.Module, weight: Tensor, block: tuple[int, int]) -> str:
    """Why a weight stays dense; empty if it fits."""
    rows, columns = block
    if not isinstance(owner, nn.Linear) or weight.dim() != 2:
        return f"a {type(owner).__name__}; torch multiplies by blocks in nn.Linear"
    if weight.shape[0] % rows or weight.shape[1] % columns:
        shape = " x ".join(map(str, weight.shape))
        return f"{shape} is no multiple of {rows} x {columns}"
    zeros = int((weight == 0).sum())
    if not zeros:
        return "it has no zeros"
    left_out = int((~_stored(weight, block)).sum()) * rows * columns
    if 2 * left_out <= zeros:
        return f"{left_out} of its {zeros} zeros lie in blocks of zeros"
    return ""


def _stored(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """[blocks down, blocks across]: whether each holds anything but zeros."""
    (rows, columns), (height, width) = block, weight.shape
    cut = weight.reshape(height // rows, rows, width // columns, columns)
    return (cut != 0).any(3).any(1)


def _check_product(name: str, weight: Tensor, blocks: Tensor) -> None:
    """Multiply by both; ExportError where torch cannot, or gives something else."""
    noise = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, weight.shape[1], generator=noise).to(weight)
    bias = torch.randn(weight.shape[0], generator=noise).to(weight)
    expected = nn.functional.linear(inputs, weight, bias)
    try:
        product = nn.functional.linear(inputs, blocks, bias)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ExportError(
            f"torch {torch.__version__} cannot multiply by {name} in blocks on {weight.device}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if not close(product.float(), expected.float()):
        raise ExportError(
            f"torch {torch.__version__} multiplies wrongly by {name} in blocks on {weight.device}; it stays dense"
        )
