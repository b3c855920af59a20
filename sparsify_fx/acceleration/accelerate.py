"""accelerate: let the layers of a model compute with sparse kernels where that is faster."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import nn

from sparsify_fx.acceleration.asked import check_library
from sparsify_fx.acceleration.layouts import follow_images, forget_images
from sparsify_fx.errors import LayerError, unknown
from sparsify_fx.living.products.choice import AUTO, MODES, Choice
from sparsify_fx.passes.transaction import untouched_on_error
from sparsify_fx.programs.owners import owners, program_of
from sparsify_fx.programs.products import CHOICE, has_products, placed_tensors

_LOG = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)


def accelerate(model: M, example_inputs: Any = None, *, kernels: str = AUTO) -> M:
    """Let layers train and infer by kernels that skip the zeros of their weights, in place; the model comes back.

    For models on a CPU that `sparsify_fx.apply` has rewritten, in float32 and with `storage="living"`: convolutions in
    one and two dimensions of any stride, padding, dilation and groups, and linear layers. Forward, the gradient of
    the input and that of the living weights read and write vectors of living entries; nothing dense is made. Results
    are those of dense layers but for rounding, and the same bits from run to run for any number of threads
    (`torch.get_num_threads()`), as long as the same layers are taken.

    Args:
        example_inputs: a tensor, or a tuple or dict of arguments, that the model is run on once, without gradients, so
            that layers decide now; None: each decides at its first inputs. A compiled model decides only here.
        kernels: "auto": layers whose sparse step is faster, by the number of multiply-adds, or by a clock where that
            does not tell; told to the log (INFO), and asked again when a mask update has changed the number of living
            weights by a tenth. "always": all layers that kernels can compute, whatever it costs, so that the bits of
            a training do not hang on a clock.

    Raises:
        RuntimeLibraryError: the package was installed without its compiled kernels.
        LayerError: no layer of the model can use them.
        After an error, of the model itself at `example_inputs` too, the model is as it was.

    >>> import sparsify_fx
    >>> model = sparsify_fx.apply(nn.Sequential(nn.Linear(64, 64), nn.ReLU()), "random", storage="living")
    >>> accelerate(model, torch.randn(8, 64))(torch.randn(8, 64)).shape
    torch.Size([8, 64])
    """
    if kernels not in MODES:
        raise LayerError(unknown("kernels", str(kernels), MODES))
    check_library()
    found = _layers(model)
    if not found:
        raise LayerError(
            "no layer of this model can use sparse kernels: they take convolutions (1d, 2d) and linear layers whose "
            'weights are in living storage; call sparsify_fx.apply(model, ..., storage="living") first'
        )
    with untouched_on_error(model):
        for name, layer in found.items():
            tensors = placed_tensors(program_of(layer, "weight"))
            layer.__dict__[CHOICE] = Choice(name, kernels, tensors)
        follow_images(model)
        if example_inputs is not None:
            tried(model, example_inputs)
    _LOG.info("%d layers may use sparse kernels (%s)", len(found), kernels)
    return model


def decelerate(model: M) -> M:
    """Undo `accelerate`, in place.

    >>> import sparsify_fx
    >>> model = sparsify_fx.apply(nn.Linear(8, 8), "random", storage="living")
    >>> decelerate(accelerate(model)) is model
    True
    """
    for module in model.modules():
        module.__dict__.pop(CHOICE, None)
    forget_images(model)
    return model


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that kernels could compute, by name."""
    return {
        name: owner
        for name, owner, tensor in owners(model)
        if tensor == "weight"
        and has_products(owner)
        and program_of(owner, tensor).places() is not None
    }


@torch.no_grad()
def tried(model: nn.Module, example_inputs: Any) -> None:
    """One forward in evaluation, in which nothing but the choices of layers changes."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        if isinstance(example_inputs, dict):
            model(**example_inputs)
        elif isinstance(example_inputs, tuple | list):
            model(*example_inputs)
        else:
            model(example_inputs)
    finally:
        for module, mode in modes.items():
            module.training = mode
