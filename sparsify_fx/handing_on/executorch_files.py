"""ExecuTorch: a .pte file of a merged model, with XNNPACK, run once before it is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.handing_on.plain import (
    HandedOn,
    bytes_of,
    close,
    dense_bytes,
    missing,
    prunable,
    zeros_of,
)


def save_executorch(
    model: nn.Module, path: str | os.PathLike[str], example_inputs: Tensor
) -> HandedOn:
    """Lower a merged model to an ExecuTorch program with XNNPACK, run it, and keep it when its outputs are the model's.

    Weights are stored dense, zeros among them, and no kernel skips them: the file is as large and as fast as that of a
    dense model. It compresses well where files are compressed on their way, in packages of apps for instance.

    Args:
        model: merged, in evaluation mode.
        path: the .pte file, written whole or not at all.
        example_inputs: one batch, whose shape the program takes.

    Raises ExportError for a rewritten model, one without zeros, what ExecuTorch cannot lower, and other outputs.
    """
    path = Path(path)
    weights = prunable(model)
    lower, partitioner, runtime = _executorch()
    model.eval()
    try:
        program = torch.export.export(model, (example_inputs,))
        made = lower(program, partitioner=[partitioner()]).to_executorch()
    except Exception as error:
        raise ExportError(
            f"ExecuTorch cannot lower {type(model).__name__} ({error})"
        ) from error
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(made.buffer)
        method = runtime.get().load_program(str(part)).load_method("forward")
        (found,) = method.execute([example_inputs])
        with torch.no_grad():
            expected = model(example_inputs)
        if not close(found, expected):
            raise ExportError(
                f"the program gives other outputs than the model, by up to {float((found - expected).abs().max()):.3g}"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    total = sum(weight.numel() for weight in weights.values())
    return HandedOn(
        path, bytes_of(path), dense_bytes(weights), zeros_of(weights), total, 0
    )


def _executorch() -> tuple[Any, Any, Any]:
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime
    except ImportError as error:
        raise missing("executorch", "executorch") from error
    return to_edge_transform_and_lower, XnnpackPartitioner, Runtime
