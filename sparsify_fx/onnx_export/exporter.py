"""`export`: a merged copy of a model as a checked, sparsely stored ONNX file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor, nn

from sparsify_fx.errors import ExportError, unknown
from sparsify_fx.onnx_export.clean import normalise_zeros, set_producer, strip_metadata
from sparsify_fx.onnx_export.codecs import VALUES
from sparsify_fx.onnx_export.encodings import ENCODING_NAMES, VALUE_NAMES, Wanted
from sparsify_fx.onnx_export.files import check_target
from sparsify_fx.onnx_export.finishing import Checked, check_file, describe, make_report, measure_file
from sparsify_fx.onnx_export.names import name_outputs, restore_weight_names
from sparsify_fx.onnx_export.optimized import optimized
from sparsify_fx.onnx_export.outputs import flatten_outputs, named_tensors
from sparsify_fx.onnx_export.padding import keep_zero_padding
from sparsify_fx.onnx_export.prepare import example_tensors, merged_copy, release, run_model, untouched_rng
from sparsify_fx.onnx_export.report import ExportReport
from sparsify_fx.onnx_export.sparse_ort import TARGETS, check_wanted, encode, library_for
from sparsify_fx.onnx_export.tensors import TensorReader
from sparsify_fx.onnx_export.trace import batch_of, trace, with_batch
from sparsify_fx.onnx_export.verify import Arrays, Runtime, compare
from sparsify_fx.onnx_export.writing import write_model
from sparsify_fx.overshoot import kept_zeros
from sparsify_fx.owners import programs
from sparsify_fx.parts import parts_of
from sparsify_fx.passes.onnx_graph.outside import count_bytes
from sparsify_fx.plan import plans_of
from sparsify_fx.unfinished import warn_unfinished


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    encoding: str = "auto",
    values: str = "fp32",
    target: str = "onnx",
    opset: int | None = None,
    dynamic_batch: bool = True,
    verify: bool = True,
    verify_inputs: Tensor | tuple[Tensor, ...] | None = None,
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
        example_inputs: a Tensor or a tuple of Tensors that the forward takes, batch first.
        encoding: how the places of zeros are stored in every float tensor that has any. `dense`: plainly. `coo`:
            ONNX's `sparse_initializer`, 1 to 4 bytes a value. `gap`: the zeros in between, 4 or 8 bits a value, which
            onnxruntime turns into plain weights when it loads the file. `bitmask`: one bit an entry. `auto`: whichever
            gives the smallest file; small tensors and those that would not shrink stay dense.
        values: `fp32` as they are; `fp32-packed` the same bits in 3.25 to 3.5 bytes; `fp16` rounded; `int8` rounded,
            with a scale for each output channel. The last two are for prunable weights only.
        target: `onnx` for any runtime, which gains no speed from zeros. `sparse-ort` for onnxruntime with the library
            of this package: layers whose sparse kernel is faster become operators that skip zeros, for the sizes
            of `example_inputs`. Open it with `sparsify_fx.runtime.session(path)`; `unpack_onnx` gives a plain file.
        opset: version of the standard operators; None takes torch.onnx's.
        dynamic_batch: the first axis of all inputs that share the first one's batch size can have any size.
        verify: compare with PyTorch in onnxruntime, with `verify_inputs` (default: the examples) and, with a dynamic
            batch, with one sample more. Stored bits are checked in any case.
        tolerance: the largest difference, as a fraction of the largest value of an output. None: 1e-4, and for fp16 and
            int8, whose difference is yours to judge, only NaN and Inf are errors.
        functions: store each encoded weight as one node, a call of a local function, for readers of the graph.
        optimize: run `passes.onnx_graph` first: norms are folded, channels that are dead or that nothing reads are
            removed; `report.passes` says what that saved. A model without any keeps its bytes.
        measure: also measure load time, memory and latency against the dense file (`report.speed`).
        autotune: with `sparse-ort`, measure each layer dense and sparse on this machine instead of estimating both; the
            file's metadata say how its layers were chosen.
        metadata: entries for the file's metadata; producer, encoding, sparsity and, if known, method are added.

    Raises:
        UnknownNameError: unknown encoding, values or target.
        RuntimeLibraryError: target `sparse-ort`, and the package was installed without its library.
        ExportError: everything else: a path that cannot be written, NaN or Inf weights, inputs that the model does
            not take, an operator that ONNX lacks, a result that differs. `path` is then as before.

    >>> import tempfile, torch
    >>> model = nn.Sequential(nn.Linear(80, 40), nn.ReLU())
    >>> nn.init.zeros_(model[0].weight[:, 10:]).shape
    torch.Size([40, 70])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export(model, f"{folder}/model.onnx", torch.randn(1, 80))
    >>> report.weights, report.nonzeros, report.sparsity, report.layers[0].encoding
    (3200, 400, 0.875, 'coo')

    Source: ONNX operators CumSum, MaxUnpool, ScatterElements, Gather (opset 11 and later), `sparse_initializer` (IR
    version 5).
    """
    _check_choices(
        {"encoding": (encoding, ENCODING_NAMES), "values": (values, VALUE_NAMES), "target": (target, TARGETS)}
    )
    wanted = Wanted(encoding, values, functions, target, autotune)
    check_wanted(wanted)
    limit = _limit(tolerance, values)
    place = check_target(path)
    inputs = example_tensors(example_inputs)
    probes = inputs if verify_inputs is None else example_tensors(verify_inputs, "verify_inputs")
    notes = _notes(model) if isinstance(model, nn.Module) else ()
    with untouched_rng():
        copied = merged_copy(model)
        reference = _reference(copied, inputs, probes, dynamic_batch)
        flatten_outputs(copied)
        dense = trace(copied, inputs, len(reference.names), opset=opset, dynamic_batch=dynamic_batch)
    _tidy(dense, copied, reference.names)
    release(copied, model)
    dense, passes = optimized(dense, inputs) if optimize else (dense, ())
    shapes = _shapes(dense, inputs)
    encoded = describe(encode(dense, wanted, shapes), dense, wanted, shapes, _about(model, metadata))
    library = library_for(encoded.model)

    def check(written: Path) -> Checked:
        check_file(written, encoded)
        differences = reference.differences(Runtime(written, library), limit) if verify else (None, None)
        feed = {name: value.contiguous().numpy() for name, value in zip(shapes, inputs, strict=True)}
        return Checked(differences, measure_file(dense, written, feed, library) if measure else None)

    checked = write_model(place, encoded.model, TensorReader(), check)
    report = make_report(
        path, encoded, wanted, checked, bytes_dense=count_bytes(dense), reference="PyTorch", notes=notes
    )
    return replace(report, passes=passes)


@dataclass(frozen=True)
class _Reference:
    """What PyTorch answers: the names of its outputs, and its outputs on each tuple of inputs."""

    names: list[str]
    runs: list[tuple[tuple[Tensor, ...], Arrays]]

    def differences(self, runtime: Runtime, tolerance: float) -> tuple[float, float]:
        """The largest absolute and relative difference over all runs; ExportError above the tolerance."""
        found = []
        for number, (inputs, outputs) in enumerate(self.runs):
            try:
                found.append(compare(outputs, runtime.run(inputs), self.names, tolerance))
            except ExportError as error:
                raise error if number == 0 else _another_batch(inputs, error) from error
        return max(a for a, _ in found), max(r for _, r in found)


def _another_batch(inputs: tuple[Tensor, ...], error: ExportError) -> ExportError:
    return ExportError(
        f"with inputs whose first axis is {batch_of(inputs)}, one more than in example_inputs: {error}. The exported "
        "graph is fixed to the first axis of the examples: if that is not the batch (time first, as nn.LSTM has it by "
        "default), pass dynamic_batch=False, or let the model take the batch first (batch_first=True)"
    )


def _reference(model: nn.Module, inputs: tuple[Tensor, ...], probes: tuple[Tensor, ...], grow: bool) -> _Reference:
    """Run the copy on the inputs to verify with and, with `grow`, on a batch that is one larger."""
    pairs = named_tensors(run_model(model, inputs, "the model does not take these example_inputs"))
    if not pairs:
        raise ExportError("the model returns no tensor; expected a Tensor or a tuple, dict or dataclass of Tensors")
    cases = {"the model does not take these verify_inputs": probes}
    if grow:
        more = with_batch(inputs, batch_of(inputs) + 1)
        cases["the model does not take another batch size; pass dynamic_batch=False"] = more
    runs = [(case, _arrays(run_model(model, case, complaint))) for complaint, case in cases.items()]
    return _Reference([name for name, _ in pairs], runs)


def _arrays(output: Any) -> Arrays:
    return [tensor.detach().contiguous().numpy() for _, tensor in named_tensors(output)]


def _tidy(dense: onnx.ModelProto, model: nn.Module, outputs: list[str]) -> None:
    """Metadata away, readable names, one kind of zero, our name as producer; padding as it is meant; in place."""
    strip_metadata(dense)
    keep_zero_padding(dense)
    restore_weight_names(dense.graph, model)
    name_outputs(dense.graph, outputs)
    normalise_zeros(dense)
    set_producer(dense)


def _limit(tolerance: float | None, values: str) -> float:
    """The tolerance to use: its default depends on whether the values lose something."""
    if tolerance is None:
        return 1e-4 if VALUES[values].lossless else math.inf
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ExportError(f"tolerance={tolerance!r} must be a positive finite number, for instance 1e-4")
    return tolerance


def _shapes(dense: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of the example inputs by name."""
    return {item.name: tuple(value.shape) for item, value in zip(dense.graph.input, inputs, strict=True)}


def _notes(model: nn.Module) -> tuple[str, ...]:
    """What the report says of a rewritten model: an unfinished schedule, weights that are kept as zeros."""
    zeros = kept_zeros(programs(model))
    told = (f"{zeros} weights that the masks keep are exactly zero, and zeros in the file",) if zeros else ()
    return (*warn_unfinished(model, "the model is exported"), *told)


def _about(model: nn.Module, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The method that the model was prepared with, if it still knows, and what the caller says."""
    parts = parts_of(model, strict=False) if isinstance(model, nn.Module) and plans_of(model) else ()
    methods = "; ".join(part.says(part.plan.method) for part in parts)
    seeds = "; ".join(part.says(str(part.plan.seed)) for part in parts)
    known = {"method": methods, "seed": seeds} if parts else {}
    return known | dict(metadata or {})


def _check_choices(choices: dict[str, tuple[str, Iterable[str]]]) -> None:
    """Every word is one of the known ones."""
    for kind, (given, known) in choices.items():
        if given not in known:
            raise unknown(kind, str(given), known)
