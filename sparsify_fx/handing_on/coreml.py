"""Core ML: an .mlpackage whose weights are stored as a bit for each entry and the values that are not zero."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.handing_on.plain import (
    HandedOn,
    bytes_of,
    dense_bytes,
    missing,
    prunable,
)

# A bit for each entry is 1/32 of a float32 value, so a tensor gains from a few zeros on.
_WORTH, _SMALLEST = 0.1, 64
_SPARSE = "constexpr_sparse_to_dense"


def save_coreml(
    model: nn.Module, path: str | os.PathLike[str], example_inputs: Tensor
) -> HandedOn:
    """Convert a merged model by coremltools and store its zeros as Core ML's sparse weights; then read the file back.

    Each weight with more than a tenth of zeros becomes a mask of bits and its non-zero values, in float32, which Core
    ML expands when it loads the model. What is read back is the file: running it needs macOS, converting does not.

    Args:
        model: merged, in evaluation mode.
        path: ends in .mlpackage; a folder that is written whole or not at all.
        example_inputs: one batch, whose shape the file takes.

    Raises ExportError for a rewritten model, one without zeros, a path of another kind, what coremltools cannot
    convert, and weights that were read back with other values.
    """
    path = Path(path)
    if path.suffix != ".mlpackage":
        raise ExportError(
            f"{path} must end in .mlpackage, the folder of a Core ML model"
        )
    weights = prunable(model)
    made = _converted(model, example_inputs)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        made.save(str(part))
        found = read_coreml(part)
        wanted = sorted(int(weight.count_nonzero()) for weight in weights.values())
        # coremltools transposes and renames weights; what has to be there is a tensor with as many non-zeros.
        counts = sorted(int(value.count_nonzero()) for value in found.values())
        if (lost := _not_in(wanted, counts)) is not None:
            raise ExportError(
                f"no tensor of the file has the {lost} non-zeros that a weight has; coremltools changed them"
            )
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
    zeros = sum(int((value == 0).sum()) for value in found.values())
    total = sum(value.numel() for value in found.values())
    return HandedOn(
        path, bytes_of(path), dense_bytes(weights), zeros, total, len(found)
    )


def read_coreml(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors that an .mlpackage stores sparse, dense again, by their names in the file; on any system."""
    tools = _coremltools()
    model = tools.models.MLModel(str(path), skip_model_load=True)
    program = tools.converters.mil.frontend.milproto.load.load(
        model.get_spec(),
        specification_version=model.get_spec().specificationVersion,
        file_weights_dir=model.weights_dir,
    )
    found = {}
    for function in program.functions.values():
        for operation in function.operations:
            if operation.op_type == _SPARSE:
                value = torch.from_numpy(operation.materialized_val_inference())
                found[operation.outputs[0].name] = value
    return found


def _converted(model: nn.Module, example_inputs: Tensor) -> Any:
    """The converted model with sparse weights, in memory."""
    tools = _coremltools()
    with warnings.catch_warnings():
        # About versions of torch that it was not tested with, and scikit-learn's, which plays no part.
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(model.eval(), (example_inputs,))
            dense = tools.convert(
                program.run_decompositions({}),
                convert_to="mlprogram",
                minimum_deployment_target=tools.target.iOS17,
                compute_precision=tools.precision.FLOAT32,
            )
        except Exception as error:
            raise ExportError(
                f"coremltools {tools.__version__} cannot convert {type(model).__name__} ({error})"
            ) from error
        coreml = tools.optimize.coreml
        # The least threshold above zero: nothing is pruned that is not zero already.
        rule = coreml.OpThresholdPrunerConfig(
            threshold=1e-38,
            minimum_sparsity_percentile=_WORTH,
            weight_threshold=_SMALLEST,
        )
        config = coreml.OptimizationConfig(global_config=rule)
        return coreml.prune_weights(dense, config)


def _coremltools() -> Any:
    try:
        import coremltools
    except ImportError as error:
        raise missing("coremltools", "coremltools") from error
    return coremltools


def _not_in(wanted: list[int], counts: list[int]) -> int | None:
    """The first number that the others lack; small weights and nearly dense ones are stored dense."""
    left = list(counts)
    for count in wanted:
        if count in left:
            left.remove(count)
    return None if not left else left[0]
