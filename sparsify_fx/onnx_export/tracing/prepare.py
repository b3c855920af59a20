"""The checked copy of model and inputs that the exporter works on."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.tracing.inputs import Inputs
from sparsify_fx.passes import Merge
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.sharding import is_fsdp, sharded, without_history


def merged_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` with plain float32 weights, on the CPU, in eval mode; the model itself is only read.

    Wrappers (torch.compile, DataParallel, DistributedDataParallel) are left off; float16, bfloat16 and float64
    weights become float32. Raises ExportError for something that is no module, for a module that
    cannot be copied, and for NaN or Inf in a weight.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ExportError(
            f"expected a torch.nn.Module that is not scripted, got {type(model).__name__}; pass the model"
        )
    bare = _unwrapped(model)
    if any(map(sharded, bare.parameters())) or any(map(is_fsdp, bare.modules())):
        raise ExportError(
            "the model is spread over processes by fully_shard; export a plain copy on one of them, which all of them "
            "make: copied = sparsify_fx.distributed.gathered(model)"
        )
    try:
        # Tensors that the memo holds already are not copied on the accelerator first.
        held = [*_on_cpu(bare)]
        held += [(tensor, values.cpu()) for tensor, values in without_history(bare)]
        copied = copy.deepcopy(bare, {id(tensor): moved for tensor, moved in held})
    except Exception as error:
        raise ExportError(
            f"the model cannot be copied ({_first_line(error)}); export works on a copy: keep no tensors with gradient "
            "history in objects that the model holds, and no open handles"
        ) from error
    # Merge is a pass that works in place, and so on the copy.
    if any(isinstance(module, WeightProgram) for module in copied.modules()):
        Merge()(copied)
        gc.collect()  # modules of torch.fx lie in cycles of references, and the factors with them
    copied.eval()
    if any(
        _is_odd_float(tensor) for tensor in (*copied.parameters(), *copied.buffers())
    ):
        copied.float()
    _check_finite(copied)
    return copied


def release(copied: nn.Module, model: nn.Module) -> None:
    """Give the memory of a copy's tensors back at once, whoever in torch.onnx still refers to them.

    What a module of its own `__deepcopy__` shares with `model` stays.
    """
    # By address: what a `__deepcopy__` of the model's own shares is the same memory, not the same object.
    kept = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    for tensor in (*copied.parameters(), *copied.buffers()):
        if tensor.data_ptr() not in kept:
            # torch.onnx keeps references to traced modules; emptied, they cost nothing.
            tensor.data = tensor.new_empty(0)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The user's module inside the wrappers that torch adds."""
    # Wrappers may be nested: a compiled DistributedDataParallel.
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def _on_cpu(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """(tensor, its copy on the CPU) for every parameter and buffer that lives elsewhere."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != "cpu":
            moved = tensor.detach().cpu()
            yield (
                tensor,
                nn.Parameter(moved, tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else moved,
            )


def _is_odd_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


def _check_finite(model: nn.Module) -> None:
    """NaN nowhere; Inf in no parameter (a buffer may hold -inf: attention masks)."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        infinite = isinstance(tensor, nn.Parameter) and bool(tensor.isinf().any())
        if bool(tensor.isnan().any()) or infinite:
            bad = int((~tensor.isfinite()).sum())
            raise ExportError(
                f"{name} holds {bad} NaN or Inf among {tensor.numel()} values; expected finite weights: "
                "load a checkpoint from before the training diverged"
            )


def run_model(model: nn.Module, inputs: Inputs, complaint: str) -> Any:
    """The model's output, without gradients; its own error becomes an ExportError that starts with `complaint`."""
    # Copies, as a forward may write into its arguments.
    given = inputs.holding([value.clone() for value in inputs.tensors])
    try:
        with torch.no_grad():
            return model(*given.args, **given.kwargs)
    except Exception as error:
        raise ExportError(
            f"{complaint} ({inputs.shapes()}): {type(error).__name__}: {_first_line(error)}"
        ) from error


@contextlib.contextmanager
def untouched_rng() -> Iterator[None]:
    """Give torch's random states back as they were."""
    # Only if CUDA is in use already: to ask for its state would start it.
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda else ()
    with torch.random.fork_rng(devices=devices):
        yield


def _first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
