"""Two ONNX models compute the same: both run in onnxruntime on the same inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from sparsify_fx.errors import PassError
from sparsify_fx.onnx_tools import outside
from sparsify_fx.onnx_tools.axis_roles import SMALL_TRIES
from sparsify_fx.onnx_tools.feeds import FILLS, MIXED, feeds
from sparsify_fx.onnx_tools.randomness import distance, random_nodes
from sparsify_fx.onnx_tools.signature import Asked
from sparsify_fx.onnx_tools.view import FLOATS, is_standard

Feed = Mapping[str, Any]

MARGIN = 10.0
"""How many times what the weights' last places make of a model is put down to rounding."""
MOST = 1e-2
"""An output that differs by more than that, because rounding makes as much of it, proves nothing."""

_FILLS = (
    MIXED,
    *(fill for fill in FILLS if fill != MIXED),
)  # integers that differ show more than ones
_Levels = onnxruntime.GraphOptimizationLevel


def proof_feeds(
    model: onnx.ModelProto, inputs: Feed | None, seed: int
) -> Iterator[Feed]:
    """The inputs given with made-up ones beside them, to try in turn; InputError for those that contradict the file."""
    return feeds(model, Asked(inputs=inputs or {}), seed, _FILLS, SMALL_TRIES)


@dataclass(frozen=True)
class Verdict:
    """How far a rewritten model is from the original.

    `worst`: the output that differs by more than it may, with its difference and its bound, or None; `undecided`:
    outputs that differ by much, but no more than rounding or chance make of the original, so that they prove nothing;
    `proven`: whether other outputs do.
    """

    worst: tuple[str, float, float] | None
    undecided: tuple[str, ...]
    proven: bool

    @property
    def complaint(self) -> str:
        """What speaks against the rewritten model; empty when nothing does."""
        if self.worst is not None:
            # Beyond rounding is a fault, whatever else is proven.
            name, far, bound = self.worst
            return f"changed output {name!r} by {far:.2g} of its largest entry; expected {bound:.2g}"
        if self.proven:
            return ""
        return (
            f"changed the outputs {', '.join(map(repr, self.undecided))}, but rounding or chance change them as much: "
            "nothing is proven"
        )


class Reference:
    """A model as it is given, what it runs on, its outputs, and how far rounding and chance move each of them.

    Raises PassError when it does not load or runs on none of the feeds.
    """

    def __init__(self, model: onnx.ModelProto, candidates: Iterable[Feed]) -> None:
        self.model = model
        try:
            self._session = _session(model)
        except Exception as error:
            raise PassError(
                f"passes: onnxruntime {onnxruntime.__version__} cannot load the model as it is given: {error}; fix it "
                "or pass prove=False"
            ) from error
        self.names = [item.name for item in self._session.get_outputs()]
        self.feed, self.expected = self._first_run(candidates)

    def _first_run(self, candidates: Iterable[Feed]) -> tuple[Feed, Sequence[Any]]:
        """The first feed that the model takes, and its outputs."""
        tried, problem = 0, ""
        for feed in candidates:
            try:
                return feed, self._session.run(None, dict(feed))
            except Exception as error:  # sizes that this model does not take
                tried, problem = tried + 1, problem or str(error)
        raise PassError(
            f"passes: the model runs on none of {tried} inputs ({problem}); give inputs= that it takes, or prove=False"
        )

    def distances(self, after: onnx.ModelProto) -> list[float]:
        """The difference of each output, relative to its largest entry; PassError when `after` does not run."""
        try:
            got = _session(after).run(None, dict(self.feed))
        except Exception as error:
            raise PassError(
                f"the rewritten graph does not run: {error}; report a bug"
            ) from error
        return self.far(got)

    def far(self, got: Sequence[Any]) -> list[float]:
        """The difference of each of these outputs from the expected one; infinity for other shapes, types and texts."""
        return [distance(a, b) for a, b in zip(self.expected, got, strict=True)]

    @cached_property
    def noise(self) -> list[float]:
        """How far rounding and chance move each output.

        The largest of ten times what the weights' last places make, of what onnxruntime's own optimizations make, and
        infinity for an output that differs when the model just runs again.
        """
        # 1. Rounding: weights that are a last place off are as right as they are.
        kinds = [self._nudged()]
        # 2. The freedom that onnxruntime takes itself: what it fuses, users see without any pass.
        kinds += [self.far(run) for level in (_Levels.ORT_ENABLE_EXTENDED, _Levels.ORT_ENABLE_ALL)
                  if (run := self._run_at(level)) is not None]  # fmt: skip
        # 3. Chance: an output that differs from itself tells nothing, so its bound is infinite.
        if random_nodes(self.model):
            again = self.far(self._session.run(None, dict(self.feed)))
            kinds.append([float("inf") if far > 0 else 0.0 for far in again])
        return [max(each) for each in zip(*kinds, strict=True)]

    def _nudged(self) -> list[float]:
        """Ten times what the weights' last places make of each output.

        Small constants may be sizes (scales of Resize), whose last place makes other shapes: then matrices alone.
        """
        # Each output takes the smallest of what both attempts give; where neither runs
        # it stays infinite, so that a difference above `MOST` proves nothing.
        found = [float("inf")] * len(self.names)
        for least_axes in (0, 2):
            try:
                again = self.distances(nudged(self.model, least_axes=least_axes))
            except PassError:
                continue
            found = [
                min(MARGIN * far, last) for far, last in zip(again, found, strict=True)
            ]
            if all(np.isfinite(found)):
                break
        return found

    def _run_at(self, level: Any) -> Sequence[Any] | None:
        """The outputs with onnxruntime's own optimizations; None where it cannot."""
        try:
            return list(_session(self.model, level).run(None, dict(self.feed)))
        except Exception:  # what one level refuses says nothing on rounding
            return None

    def judge(self, after: onnx.ModelProto, tolerance: float) -> Verdict:
        """Compare another model's outputs, each with `tolerance` or with what rounding makes of it in the original."""
        # 1. The usual case, which spares the runs that measure noise.
        far = self.distances(after)
        if all(each <= tolerance for each in far):
            return Verdict(None, (), proven=True)

        # 2. An output may differ by its noise, but by no more than `MOST`: a chaotic
        # model, whose noise is large, would let anything pass.
        rows = list(zip(self.names, far, self.noise, strict=True))
        left = [row for row in rows if row[1] > max(tolerance, min(row[2], MOST))]

        # 3. Of those left, more than the noise is a fault; as much as the noise proves nothing.
        above = [
            (name, each, max(tolerance, noise))
            for name, each, noise in left
            if each > noise
        ]
        undecided = tuple(name for name, each, noise in left if each <= noise)
        return Verdict(
            max(above, key=lambda row: row[1], default=None),
            undecided,
            proven=len(left) < len(rows),
        )


def difference(
    before: onnx.ModelProto, after: onnx.ModelProto, candidates: Iterable[Feed]
) -> float:
    """The largest difference between the outputs, each relative to max(largest |entry| of that output, 1e-3).

    Both models run, without the runtime's own optimizations, on the first feed that `before` takes. Inf when shapes,
    types, texts or places of NaN and Inf differ.

    Raises PassError when `before` does not load or runs on none of the feeds, or `after` does not load or run.
    """
    return max(Reference(before, candidates).distances(after), default=0.0)


def sensitivity(
    model: onnx.ModelProto, candidates: Iterable[Feed], seed: int = 0
) -> float:
    """The difference that rounding makes: between the model and itself with its float weights moved by one last place.

    Steep or very deep networks turn that into more than the 1e-7 of float32. Raises PassError as `difference`.
    """
    return difference(model, nudged(model, seed), candidates)


def nudged(
    model: onnx.ModelProto, seed: int = 0, least_axes: int = 0
) -> onnx.ModelProto:
    """The model with each float weight other than zero one last place up or down, or still, as drawn from `seed`.

    Weights with fewer axes than `least_axes` keep still.
    """
    moved, generator = onnx.ModelProto(), np.random.default_rng(seed)
    moved.CopyFrom(model)
    tensors = list(moved.graph.initializer)
    for node in moved.graph.node:
        if is_standard(node, "Constant"):
            tensors += [item.t for item in node.attribute if item.name == "value"]
    # External data lies in other files, which this copy has no part in.
    for tensor in tensors:
        large = len(tensor.dims) >= least_axes
        if (
            large
            and tensor.data_type in FLOATS
            and tensor.data_location != onnx.TensorProto.EXTERNAL
        ):
            values = onnx.numpy_helper.to_array(tensor)
            # Drawn for every tensor in order, so that one seed moves a model always alike.
            # Zeros keep still: the next number would be a denormal in place of a pruned weight.
            towards = np.array([-np.inf, 0, np.inf], values.dtype)[
                generator.integers(0, 3, values.shape)
            ]
            still = (values == 0) | (towards == 0)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    np.where(still, values, np.nextafter(values, towards)), tensor.name
                )
            )
    return moved


def _session(
    model: onnx.ModelProto, level: Any = _Levels.ORT_DISABLE_ALL
) -> onnxruntime.InferenceSession:
    # 4: fatal errors alone. A level that refuses the model is tried all the same, and
    # what it logs is not for the user.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    # Without the runtime's own optimizations by default: they would fuse both graphs
    # differently, and hide what a pass did or add what it did not.
    providers = ["CPUExecutionProvider"]
    if outside.count_bytes(model) < outside.MAX_BYTES:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=providers
        )
    # protobuf refuses messages from 2 GB; onnxruntime reads larger models from files only.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        outside.write_beside(model, path)
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
