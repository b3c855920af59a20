"""Which layers become sparse operators: by estimate, and with `measure` or `autotune` as whole models turn out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime

from sparsify_fx import runtime
from sparsify_fx.errors import ExportError, InputError
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.runtime.candidates import Candidate
from sparsify_fx.runtime.choice.giving_back import Timed, Tried, fastest
from sparsify_fx.runtime.choice.racing import inlined, made_up

_LOG = logging.getLogger(__name__)

Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Setting:
    """What layers are chosen for: shapes of the inputs, those of other values as far as known, where the sizes come
    from, and inputs of these sizes (None: made up)."""

    sizes: Sizes
    expected: Sizes
    origin: str = "given"
    feed: Mapping[str, Any] | None = None

    @property
    def batch(self) -> int:
        """The first length of the first input that has any entries."""
        return next(
            (shape[0] for shape in self.sizes.values() if shape and all(shape)), 1
        )


@dataclass(frozen=True)
class Chosen:
    """The model with sparse operators, the weights they hold, how they were chosen as JSON, and notes for the user."""

    model: onnx.ModelProto
    names: set[str]
    choice: str
    notes: tuple[str, ...] = ()


def choose_layers(
    dense: onnx.ModelProto, wanted: Wanted, setting: Setting, reader: TensorReader
) -> Chosen:
    """Sparse operators where they are faster; with `wanted.measure` or `wanted.autotune` never slower than dense."""
    outputs: dict[str, str] = {}
    estimates: dict[str, runtime.Times] = {}

    def estimated(layer: Candidate) -> runtime.Times:
        # Estimates count every non-zero, and are asked for again with every choice that
        # is tried.
        key = layer.node.output[0]
        if key not in estimates:
            estimates[key] = runtime.estimate(layer, setting.batch)
            outputs[key] = layer.node.input[1]
        return estimates[key]

    def rewrite(timed: Timed) -> tuple[onnx.ModelProto, list[str]]:
        # Nothing is faster on empty tensors: layers are chosen as if the sizes of those were open.
        sizes, expected = (
            {name: shape for name, shape in group.items() if all(shape)}
            for group in (setting.sizes, setting.expected)
        )
        return runtime.to_sparse(
            dense,
            timed=timed,
            batch=setting.batch,
            sizes=sizes,
            expected=expected,
            read=reader.array,
        )

    tried: Tried | None = None
    notes: tuple[str, ...] = ()
    # Whole models need inputs that run, and memory for both; where that is missing, the
    # estimate is still a choice.
    if wanted.autotune or wanted.measure:
        try:
            tried = _tried(dense, rewrite, estimated, wanted, setting, reader)
        except (ExportError, InputError) as error:
            notes = (f"layers were chosen by estimate alone: {error}",)
    model, names = (
        (tried.model, tried.names) if tried is not None else rewrite(estimated)
    )
    times = {
        outputs[key]: each
        for key, each in (estimates if tried is None else tried.times).items()
    }
    _LOG.info("%d of %d layers become sparse operators", len(names), len(times))
    for name, each in times.items():
        _LOG.debug("%s: dense %.0f ns, sparse %.0f ns", name, each.dense, each.sparse)
    said = (*notes, *([tried.sentence] if tried is not None and tried.sentence else []))
    return Chosen(model, set(names), _in_words(times, names, setting, tried), said)


def _tried(
    dense: onnx.ModelProto,
    rewrite: Any,
    estimated: Timed,
    wanted: Wanted,
    setting: Setting,
    reader: TensorReader,
) -> Tried:
    """The fastest choice by times of whole models; with autotune also with layers that the estimate left dense."""
    feeds: Iterable[Mapping[str, Any]] = (
        made_up(dense, setting.sizes) if setting.feed is None else [setting.feed]
    )
    return fastest(
        inlined(dense, reader.array), rewrite, estimated, feeds, add=wanted.autotune
    )


def _in_words(
    times: Mapping[str, runtime.Times],
    names: Iterable[str],
    setting: Setting,
    tried: Tried | None,
) -> str:
    """How layers were chosen, as JSON: nanoseconds of layers, and the whole model over the dense one."""
    # Written into the file, so that later it can be seen for what machine and sizes its
    # layers are right.
    held = set(names)
    layers = {
        name: {
            "sparse": name in held,
            "dense_ns": round(found.dense),
            "sparse_ns": round(found.sparse),
        }
        for name, found in times.items()
    }
    measured = tried is not None and tried.searched
    how: dict[str, Any] = {
        "by": "measurement" if measured else "estimate",
        "batch": setting.batch,
        "threads": 1,
    }
    how |= {
        "sizes": {name: list(shape) for name, shape in setting.sizes.items()},
        "sizes_from": setting.origin,
    }
    if tried is not None and tried.first is not None:
        whole = {
            "ratio": round(tried.ratio, 3),
            "ratio_of_estimate": round(tried.first, 3),
            "noise": round(tried.noise, 3),
        }
        how["whole_model"] = whole | {"given_back": list(tried.given_back)}
    if tried is not None:
        how |= {
            "onnxruntime": onnxruntime.__version__,
            "instructions": runtime.instruction_set(),
        }
    return json.dumps(how | {"layers": layers})
