"""A pruned model as its file with sparse kernels would be, timed beside the dense one; nothing is written to disk."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from sparsify_fx.budgets.plain import plain_copy
from sparsify_fx.criteria.scoring_mode import unit_scales
from sparsify_fx.errors import SparsityError
from sparsify_fx.onnx_export.exporter import export
from sparsify_fx.onnx_export.tracing.clean import optimized
from sparsify_fx.onnx_export.tracing.inputs import Inputs, example_tensors
from sparsify_fx.runtime import to_sparse
from sparsify_fx.runtime.choice.racing import open_model, race

_LOG = logging.getLogger(__name__)
# Runs of the dense model, which all other times are ratios of.
_LEAST_RUNS, _SECONDS = 15, 1.0


@dataclass(frozen=True)
class Trial:
    """The dense model as ONNX, opened, with inputs to run it on.

    Attributes:
        dense: with norms folded.
        milliseconds: of the dense model in stock onnxruntime: the median, by the thread's time with one thread.
    """

    dense: onnx.ModelProto
    inputs: Inputs
    threads: int
    session: onnxruntime.InferenceSession
    feed: Mapping[str, Any]
    milliseconds: float

    def run(self, masks: Mapping[str, Tensor], races: int = 1) -> float:
        """Milliseconds of the model with these masks in the sparse kernels; the median of so many races."""
        pruned = with_zeros(self.dense, masks)
        # Channels that nothing reads any more go from the file too.
        smaller, _ = optimized(pruned, self.inputs)
        sizes = {name: tuple(value.shape) for name, value in self.feed.items()}
        batch = next((size[0] for size in sizes.values() if size), 1)
        sparse, names = to_sparse(smaller, batch=batch, sizes=sizes)
        session = open_model(sparse, self.threads)
        ratios = [
            race(self.session, [session], self.feed, threads=self.threads).ratios[0]
            for _ in range(races)
        ]
        found = statistics.median(ratios) * self.milliseconds
        _LOG.info("%d sparse layers: %.3f ms", len(names), found)
        return found


def open_trial(model: nn.Module, example_inputs: Any, threads: int) -> Trial:
    """The trial of a model; its weights only have to be there, trained or not.

    Raises ExportError for a model that cannot be exported, RuntimeLibraryError without the sparse kernels.
    """
    inputs = example_tensors(example_inputs)
    copied = plain_copy(model)
    prunable = {name for name, p in copied.named_parameters() if p.dim() > 1}
    # A branch that starts at zero would be removed as dead, and missing from the time: training wakes it.
    with torch.no_grad():
        for name, ones in unit_scales(copied, prunable).items():
            copied.get_parameter(name).copy_(ones)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.onnx"
        export(copied, path, example_inputs, encoding="dense", verify=False)
        dense = onnx.load(path)
    feed = {
        item.name: value.contiguous().numpy()
        for item, value in zip(dense.graph.input, inputs.tensors, strict=True)
    }
    session = open_model(dense, threads)
    taken = _median(session, feed, threads)
    _LOG.info("the dense model takes %.3f ms", taken)
    return Trial(dense, inputs, threads, session, feed, taken)


def with_zeros(dense: onnx.ModelProto, masks: Mapping[str, Tensor]) -> onnx.ModelProto:
    """A copy whose weights are zero where the masks are.

    Raises SparsityError when the file has none of them under its name.
    """
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    found = 0
    for tensor in model.graph.initializer:
        mask = masks.get(tensor.name)
        if mask is None:
            continue
        weight, kept = numpy_helper.to_array(tensor), mask.cpu().numpy()
        # A matrix product may hold its weight turned.
        kept = kept if kept.shape == weight.shape else kept.T
        if kept.shape != weight.shape:
            continue
        found += 1
        zeroed = np.where(kept == 1, weight, np.float32(0))
        tensor.CopyFrom(numpy_helper.from_array(zeroed, tensor.name))
    if not found:
        raise SparsityError(
            "budget latency: none of the prunable weights is found in the exported model, so its time does not depend "
            "on them; use budget='macs'"
        )
    return model


def _median(
    session: onnxruntime.InferenceSession, feed: Mapping[str, Any], threads: int
) -> float:
    clock = time.thread_time if threads == 1 else time.perf_counter
    given, taken, began = dict(feed), list[float](), time.perf_counter()
    session.run(None, given)
    while len(taken) < _LEAST_RUNS or time.perf_counter() - began < _SECONDS:
        start = clock()
        session.run(None, given)
        taken.append(clock() - start)
    return 1e3 * statistics.median(taken)
