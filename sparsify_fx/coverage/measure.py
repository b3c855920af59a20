"""Running a model for a comparison: evaluation, training under a seed, and gradients; and comparing what came out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from sparsify_fx.coverage.build import seed_everything
from sparsify_fx.errors import CoverageError
from sparsify_fx.onnx_export.tracing.outputs import named_tensors
from sparsify_fx.programs.program import WeightProgram

Tensors = dict[str, Tensor]


def evaluate(model: nn.Module, inputs: tuple[Any, ...]) -> Tensors:
    """All outputs in evaluation mode, by name."""
    model.eval()
    # A model that draws numbers in evaluation too shall draw the same ones in every run that is compared.
    seed_everything(2)
    with torch.no_grad(), buffers_kept(model):
        return _outputs(model(*inputs))


def train(
    model: nn.Module, inputs: tuple[Any, ...], *, backward: bool = False
) -> Tensors:
    """All outputs in training mode under a seed, and the buffers that the forward left; with gradients, if wanted.

    The gradients are those of Σ outputs ⊙ noise / count, so that none cancels. The buffers are put back.
    """
    # The same seed before each of the models that are compared, so that dropout drops the same.
    model.train()
    seed_everything(3)
    with torch.set_grad_enabled(backward), buffers_kept(model):
        outputs = named_tensors(model(*inputs))
        if backward:
            model.zero_grad(set_to_none=True)
            _loss(tensor for _, tensor in outputs).backward()  # type: ignore[no-untyped-call]
        found = {name: tensor.detach().clone() for name, tensor in outputs}
        left = {f"buffer {name}": buffer.clone() for name, buffer in _statistics(model)}
    return found | left


def _loss(outputs: Iterator[Tensor]) -> Tensor:
    """Σ outputs ⊙ noise / count, in float64; CoverageError when no output has a gradient."""
    # A plain sum has no gradient at all where outputs are normalized to a constant sum, as after a softmax.
    noise = torch.Generator().manual_seed(4)
    trained = [
        tensor
        for tensor in outputs
        if tensor.requires_grad and tensor.is_floating_point()
    ]
    if not trained:
        raise CoverageError("no output of the model in training mode has a gradient")
    parts = [
        (t * torch.randn(t.shape, generator=noise).to(t)).sum() / max(t.numel(), 1)
        for t in trained
    ]
    return torch.stack([part.double() for part in parts]).sum()


def _outputs(value: Any) -> Tensors:
    """The tensors of whatever a model returns, by name; CoverageError when there is none."""
    found = {name: tensor.detach().clone() for name, tensor in named_tensors(value)}
    if not found:
        raise CoverageError("the model returns no tensor")
    return found


@contextlib.contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Running statistics as before, whatever a forward does to them."""
    before = {name: buffer.clone() for name, buffer in _statistics(model)}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in _statistics(model):
                if name in before and buffer.shape == before[name].shape:
                    buffer.copy_(before[name])


def _statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The model's own buffers; not the masks of weight programs."""
    inside = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, WeightProgram)
    )
    return (
        (name, buffer)
        for name, buffer in model.named_buffers()
        if not name.startswith(inside)
    )


def calibrate(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Set the running statistics of batch norms to those of one batch; at 0 and 1, deep random nets would explode."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if not norms:
        return
    # With momentum 1 the running statistics become those of the one batch; the model's own momentum is put back.
    momenta = [norm.momentum for norm in norms]
    model.train()
    seed_everything(5)
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise CoverageError when an output holds NaN or Inf."""
    for name, tensor in tensors.items():
        if not name.startswith("buffer ") and not bool(torch.isfinite(tensor).all()):
            raise CoverageError(f"{name} of the original model holds NaN or Inf")


def difference(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> float:
    """max |a − b| / max |a| over all tensors; integer tensors must be equal. NaN and Inf must stand at the same places.

    Raises CoverageError when names, shapes or types differ.
    """
    if list(expected) != list(got):
        raise CoverageError(
            f"outputs or buffers {sorted(set(expected) ^ set(got))[:4]} are not in both models"
        )
    return max(
        _difference(name, tensor, got[name]) for name, tensor in expected.items()
    )


def _difference(name: str, a: Tensor, b: Tensor) -> float:
    """The same of one tensor: max |a − b| / max |a|, infinite where that cannot be said."""
    if a.shape != b.shape or a.dtype != b.dtype:
        raise CoverageError(
            f"{name} is {b.dtype} {list(b.shape)}, of the original {a.dtype} {list(a.shape)}"
        )
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    # Labels, counts and flags that differ at all are other answers.
    if not a.is_floating_point():
        return float("inf")
    a, b = a.double(), b.double()
    # Infinities may be a model's own, as masked logits are: they must be the same ones, and no others may be there.
    # `nan_to_num` lets NaN equal itself, and keeps the two infinities apart.
    finite = torch.isfinite(a)
    if not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()) or not bool(
        torch.isfinite(b[finite]).all()
    ):
        return float("inf")
    return float((a - b)[finite].abs().max() / a[finite].abs().max())


def in_double(value: Any) -> Any:
    """The inputs with every float tensor in float64."""
    return _pytree.tree_map_only(
        Tensor, lambda t: t.double() if t.is_floating_point() else t, value
    )
