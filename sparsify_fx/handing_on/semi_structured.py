"""torch's semi-structured 2:4 tensors: two of four weights, for the sparse tensor cores of NVIDIA GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS, to_sparse_semi_structured

from sparsify_fx.errors import ExportError
from sparsify_fx.handing_on.plain import prunable


@dataclass(frozen=True)
class SemiStructured:
    """Which layers torch can store 2:4.

    Attributes:
        layers: names of the linear weights that fit.
        reasons: why the others do not, by name.
    """

    layers: tuple[str, ...]
    reasons: dict[str, str]

    def __str__(self) -> str:
        told = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        return f"{len(self.layers)} layers fit 2:4" + (f"; not {told}" if told else "")


def semi_structured_layers(
    model: nn.Module, dtype: torch.dtype = torch.float16
) -> SemiStructured:
    """Which weights of a merged model torch's 2:4 kernels can take in `dtype`; nothing is changed, no GPU is needed.

    A weight [outputs, inputs] fits when of every four consecutive inputs at most two are not zero, the layer is linear,
    and both sides are multiples of what the kernels ask for. `apply(model, allocation="n:m", sparsity=...)` trains the
    pattern; without it an unstructured mask fits hardly ever.

    Raises ExportError for a rewritten model, one without zeros, or a dtype that the kernels do not take.

    >>> import sparsify_fx
    >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> net = sparsify_fx.apply(net, "magnitude", schedule="at-init", allocation="n:m", sparsity=0.5)
    >>> print(semi_structured_layers(sparsify_fx.merge(net)))
    1 layers fit 2:4; not 2.weight: 10 x 32 is no multiple of 32 x 64
    """
    limits = SparseSemiStructuredTensorCUTLASS._DTYPE_SHAPE_CONSTRAINTS
    if dtype not in limits:
        known = ", ".join(str(kind).removeprefix("torch.") for kind in limits)
        raise ExportError(f"2:4 kernels take {known}; got {dtype}")
    rows, columns = limits[dtype].sparse_min_rows, limits[dtype].sparse_min_cols
    fitting: list[str] = []
    reasons: dict[str, str] = {}
    for name, weight in prunable(model).items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(owner, nn.Linear) or weight.dim() != 2:
            reasons[name] = f"a {type(owner).__name__}; the kernels are for nn.Linear"
        elif weight.shape[0] % rows or weight.shape[1] % columns:
            shape = " x ".join(map(str, weight.shape))
            reasons[name] = f"{shape} is no multiple of {rows} x {columns}"
        elif (most := _most_of_four(weight)) > 2:
            reasons[name] = f"{most} of four consecutive weights are not zero"
        else:
            fitting.append(name)
    return SemiStructured(tuple(fitting), reasons)


def to_semi_structured(
    model: nn.Module, dtype: torch.dtype = torch.float16
) -> SemiStructured:
    """Store the fitting weights of a merged model on a GPU as torch's 2:4 tensors, in `dtype`, in place.

    Layers that do not fit stay as they are and are told. The weights cannot be trained afterwards.

    Raises ExportError, with nothing changed, as `semi_structured_layers` does, for a model on no CUDA device, and
    when no layer fits.
    """
    found = semi_structured_layers(model, dtype)
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ExportError(
            f"the model is on {device}, and 2:4 kernels run on CUDA devices (compute capability 8.0 and later); move "
            "it there by model.cuda(). semi_structured_layers(model) tells anywhere what fits"
        )
    if not found.layers:
        raise ExportError(f"no layer fits: {found}; prune with allocation='n:m'")
    made = {
        name: to_sparse_semi_structured(model.get_parameter(name).detach().to(dtype))
        for name in found.layers
    }
    for name, weight in made.items():
        owner, _, tensor = name.rpartition(".")
        new = nn.Parameter(weight, requires_grad=False)
        setattr(model.get_submodule(owner), tensor, new)
    return found


def _most_of_four(weight: Tensor) -> int:
    """The largest number of non-zeros in four consecutive inputs."""
    groups = (weight != 0).reshape(weight.shape[0], -1, 4)
    return int(groups.sum(-1).max())
