"""`export`: a merged copy of a model as a checked, sparsely stored ONNX file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from sparsify_fx.errors import unknown
from sparsify_fx.onnx_export.checks.arguments import check_words, limit_of
from sparsify_fx.onnx_export.checks.verify import Runtime
from sparsify_fx.onnx_export.files.targets import check_target
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.files.writing import write_model
from sparsify_fx.onnx_export.finishing import (
    Checked,
    check_file,
    describe,
    make_report,
    measure_file,
)
from sparsify_fx.onnx_export.report.export_report import ExportReport
from sparsify_fx.onnx_export.sparse_ort import (
    TARGETS,
    check_wanted,
    encode,
    library_for,
)
from sparsify_fx.onnx_export.storage.options import ENCODING_NAMES, VALUE_NAMES, Wanted
from sparsify_fx.onnx_export.tracing.clean import (
    keep_zero_padding,
    normalize_zeros,
    optimized,
    set_producer,
    strip_metadata,
)
from sparsify_fx.onnx_export.tracing.groups import cut_dead_groups
from sparsify_fx.onnx_export.tracing.inputs import (
    ExampleInputs,
    Inputs,
    example_tensors,
)
from sparsify_fx.onnx_export.tracing.names import name_outputs, restore_weight_names
from sparsify_fx.onnx_export.tracing.open_trace import (
    check_choice,
    find_axes,
    trace_checked,
)
from sparsify_fx.onnx_export.tracing.outputs import flatten_outputs
from sparsify_fx.onnx_export.tracing.prepare import merged_copy, release, untouched_rng
from sparsify_fx.onnx_export.tracing.reference import run_reference
from sparsify_fx.onnx_tools.outside import count_bytes
from sparsify_fx.plan import plans_of
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.overshoot import kept_zeros
from sparsify_fx.scheduler.parts import parts_of
from sparsify_fx.scheduler.unfinished import warn_unfinished

_LOG = logging.getLogger(__name__)


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: ExampleInputs,
    *,
    encoding: str = "auto",
    values: str = "fp32",
    target: str = "onnx",
    opset: int | None = None,
    dynamic_batch: bool | None = None,
    dynamic_shapes: Any = None,
    verify: bool = True,
    verify_inputs: ExampleInputs | None = None,
    tolerance: float | None = None,
    functions: bool = False,
    optimize: bool = True,
    measure: bool = False,
    autotune: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write `model` to an ONNX file with its zeros stored sparsely, once onnxruntime agrees with PyTorch on it.

    Args:
        model: any module, rewritten by `apply` or not. It is only read: a copy is merged, put in eval mode, converted
            to float32 and traced on the CPU.
        path: the file to write; it appears whole, after all checks, or not at all. One that would exceed 2 GB gets its
            large tensors in `path`.data.
        example_inputs: a Tensor, a tuple of Tensors, or a dict of Tensors by the names of forward's parameters (also as
            the last entry of a tuple). The inputs of the file have the names of the parameters.
        encoding: how the places of zeros are stored in every float tensor that has any. `dense`: plainly. `coo`:
            ONNX's `sparse_initializer`, 1 to 4 bytes a value. `gap`: the zeros in between, 4 or 8 bits a value, which
            onnxruntime turns into plain weights when it loads the file. `bitmask`: one bit an entry. `auto`: whichever
            gives the smallest file; small tensors and those that would not shrink stay dense, and `coo` has to save a
            tenth of the file, since many tools refuse sparse initializers.
        values: `fp32` as they are; `fp32-packed` the same bits in 3.25 to 3.5 bytes; `fp16` rounded; `int8` rounded,
            with a scale for each output channel. The last two are for prunable weights only.
        target: `onnx` for any runtime, which gains no speed from zeros, or one of `openvino`, `tract`, `mnn`, `ncnn`,
            `iree`, `tvm`, `onnxruntime`, `web` for the form that it folds into constants when it loads the file, dense
            weights where it folds none. `sparse-ort` for onnxruntime with the library
            of this package: layers whose sparse kernel is faster become operators that skip zeros, for the sizes
            of `example_inputs`. Open it with `sparsify_fx.runtime.session(path)`; `unpack_onnx` gives a plain file.
        opset: version of the standard operators; None takes torch.onnx's.
        dynamic_batch: True: the first axis of all inputs that share the first one's batch size can have any size. None:
            the same, but if the model mixes the entries of the first axis and treats those of the second apart (time
            first, as nn.LSTM has it by default), the second is the batch, and a note says so. False: no axis is open.
        dynamic_shapes: which axes can have any size, in every form of torch.export: by forward's parameters or by
            position, and then by axis, a name, `torch.export.Dim`, `Dim.DYNAMIC` or `Dim.AUTO`. It rules alone: what it
            leaves out is fixed, the batch too. `{"x": {0: "batch", 2: "height", 3: "width"}}`.
        verify: compare with PyTorch in onnxruntime, with `verify_inputs` (default: the examples) and with other sizes
            of the open axes. Stored bits are checked in any case.
        tolerance: the largest difference, as a fraction of the largest value of an output. None: 1e-4, and for fp16 and
            int8, whose difference is yours to judge, only NaN and Inf are errors.
        functions: store each encoded weight as one node, a call of a local function, for readers of the graph.
        optimize: run `passes.onnx_graph` first: norms are folded, channels that are dead or that nothing reads are
            removed; `report.passes` says what that saved. A model without any keeps its bytes. What was pruned in whole
            channels or heads is cut out of the copy as `shrink` does it.
        measure: also measure load time, memory and latency against the dense file (`report.speed`); with `sparse-ort`,
            make layers dense again until the file is not slower than dense.
        autotune: with `sparse-ort`, choose layers by times of whole models on this machine; the file's metadata say
            how its layers were chosen.
        metadata: entries for the file's metadata; producer, encoding, sparsity and, if known, method are added.

    Raises:
        UnknownNameError: unknown encoding, values, target or input in dynamic_shapes.
        RuntimeLibraryError: target `sparse-ort`, and the package was installed without its library.
        ExportError: everything else: a path that cannot be written, NaN or Inf weights, inputs that the model does
            not take, an axis that it cannot have open, an operator that ONNX lacks, a result that differs. `path` is
            then as before.

    >>> import tempfile, torch
    >>> model = nn.Sequential(nn.Linear(80, 40), nn.ReLU())
    >>> nn.init.zeros_(model[0].weight[:, 10:]).shape
    torch.Size([40, 70])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export(model, f"{folder}/model.onnx", torch.randn(1, 80))
    >>> report.weights, report.nonzeros, report.sparsity, report.layers[0].encoding
    (3200, 400, 0.875, 'coo')

    Source: ONNX operators CumSum, ScatterElements, Gather (opset 11 and later), `sparse_initializer` (IR
    version 5).
    """
    _check_choices(
        {
            "encoding": (encoding, ENCODING_NAMES),
            "values": (values, VALUE_NAMES),
            "target": (target, TARGETS),
        }
    )

    # 1. Whatever can be refused is refused now, before minutes of tracing.
    wanted = Wanted(encoding, values, functions, target, autotune, measure)
    check_wanted(wanted)
    limit = limit_of(tolerance, values)
    check_words(metadata, opset)
    place = check_target(path)
    check_choice(dynamic_batch, dynamic_shapes)
    inputs = example_tensors(example_inputs)
    probes = (
        inputs
        if verify_inputs is None
        else example_tensors(verify_inputs, "verify_inputs")
    )
    notes = _notes(model) if isinstance(model, nn.Module) else ()

    # 2. A copy is merged and traced, so that the model stays as it is; what the copy
    # computes is recorded before anything else is done to it.
    with untouched_rng():
        _LOG.info("merging a copy of %s and running it", type(model).__name__)
        copied = merged_copy(model)
        reference = run_reference(copied, inputs, probes)
        notes += cut_dead_groups(copied, model, inputs) if optimize else ()
        wanted_axes = find_axes(copied, inputs, dynamic_batch, dynamic_shapes)
        flatten_outputs(copied)
        _LOG.info("tracing it")
        traced = trace_checked(copied, inputs, wanted_axes, len(reference.names), opset)
    dense, reference, notes = (
        traced.model,
        reference.with_run(traced.other),
        (*notes, *traced.notes),
    )
    _tidy(dense, copied, reference.names)
    release(copied, model)
    _LOG.info("traced: %d nodes", len(dense.graph.node))
    dense, passes = optimized(dense, inputs) if optimize else (dense, ())
    shapes = _shapes(dense, inputs)

    # 3. Layers are chosen, and the file measured, on the examples: these are the sizes
    # that the user has in mind.
    feed = {
        name: value.contiguous().numpy()
        for name, value in zip(shapes, inputs.tensors, strict=True)
    }
    encoded = describe(
        encode(dense, wanted, shapes, feed=feed),
        dense,
        wanted,
        shapes,
        _about(model, metadata),
    )
    library = library_for(encoded.model)

    # 4. The file that was written is checked, not the model in memory, before it gets its
    # name.
    def check(written: Path) -> Checked:
        _LOG.info(
            "checking every bit of the file that becomes %s%s",
            place,
            ", and its outputs" if verify else "",
        )
        check_file(written, encoded)
        differences = (
            reference.differences(Runtime(written, library), limit)
            if verify
            else (None, None)
        )
        return Checked(
            differences,
            measure_file(dense, written, feed, library) if measure else None,
        )

    checked = write_model(place, encoded.model, TensorReader(), check)
    report = make_report(
        path,
        encoded,
        wanted,
        checked,
        bytes_dense=count_bytes(dense),
        reference="PyTorch",
        notes=notes,
    )
    return replace(report, passes=passes)


def _tidy(dense: onnx.ModelProto, model: nn.Module, outputs: list[str]) -> None:
    """Metadata away, readable names, one kind of zero, our name as producer; padding as it is meant; in place."""
    strip_metadata(dense)
    keep_zero_padding(dense)
    restore_weight_names(dense.graph, model)
    name_outputs(dense.graph, outputs)
    normalize_zeros(dense)
    set_producer(dense)


def _shapes(dense: onnx.ModelProto, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """The shapes of the example inputs by name."""
    return {
        item.name: tuple(value.shape)
        for item, value in zip(dense.graph.input, inputs.tensors, strict=True)
    }


def _notes(model: nn.Module) -> tuple[str, ...]:
    """What the report says of a rewritten model: an unfinished schedule, weights that are kept as zeros."""
    zeros = kept_zeros(programs(model))
    told = (
        (
            f"{zeros} weights that the masks keep are exactly zero, and zeros in the file",
        )
        if zeros
        else ()
    )
    return (*warn_unfinished(model, "the model is exported"), *told)


def _about(model: nn.Module, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The method that the model was prepared with, if it still knows, and what the caller says."""
    parts = (
        parts_of(model, strict=False)
        if isinstance(model, nn.Module) and plans_of(model)
        else ()
    )
    methods = "; ".join(part.says(part.plan.method) for part in parts)
    seeds = "; ".join(part.says(str(part.plan.seed)) for part in parts)
    known = {"method": methods, "seed": seeds} if parts else {}
    return known | dict(metadata or {})


def _check_choices(choices: dict[str, tuple[str, Iterable[str]]]) -> None:
    """Every word is one of the known ones."""
    for kind, (given, known) in choices.items():
        if given not in known:
            raise unknown(kind, str(given), known)
