"""What an ONNX file that is packed runs on, and how its outputs are compared with those of the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from sparsify_fx.errors import ExportError, InputError, PassError, RuntimeLibraryError
from sparsify_fx.onnx_export.checks.run_shapes import shapes_of_run
from sparsify_fx.onnx_export.checks.verify import Runtime, compare
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_export.sparse_ort import library_for
from sparsify_fx.onnx_tools.feeds import feeds
from sparsify_fx.onnx_tools.randomness import is_seeded, random_nodes, unlike_outputs
from sparsify_fx.onnx_tools.signature import (
    Asked,
    check_asked,
    is_open,
    ports_of,
    settles,
)
from sparsify_fx.passes.onnx_graph.proof import MOST, Reference

Feed = Mapping[str, Any]

_ORIGINAL = "the original file"

_ITSELF = 1e-4
"""Outputs that differ by more than this, relative to their largest entry, from run to run of one file are random."""


def _one_line(error: Exception) -> str:
    """What onnxruntime says, without its line breaks."""
    return " ".join(str(error).split())


class Trial:
    """A file, what it runs on, and what it gave: to choose layers for those sizes and to compare another file with it.

    `feed`: inputs by name, None where none could be made up or none of them runs; `problem`: why; `shapes`: those of
    all values, as far as known; `random`: outputs that differ from run to run; `notes`: what the user should know.
    """

    def __init__(self, file: Path, model: onnx.ModelProto, asked: Asked) -> None:
        self.file, self.asked, self._model = file, asked, model
        self.feed: Feed | None = None
        self.problem = ""
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.random: set[str] = set()
        self.notes: list[str] = []
        self._ports = ports_of(model)
        self._open, self._needed = is_open(model), set(self._ports)
        self._names: list[str] = []
        self._expected: list[Any] = []

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs; none where there are none to run on."""
        return {
            name: tuple(value.shape)
            for name, value in (self.feed or {}).items()
            if hasattr(value, "shape")
        }

    @property
    def origin(self) -> str:
        """Where the sizes come from: fixed by the file, given, or made up."""
        if not self._open:
            return "fixed by the file"
        if self.asked == Asked():
            return "made up"
        return (
            "given"
            if settles(self._ports, self.asked)
            else "given in part and made up in part"
        )

    def about(self, *, chosen: bool, compared: bool, measured: bool) -> list[str]:
        """For which sizes layers were chosen, and outputs compared and measured; nothing where the file fixes all."""
        done = [
            ("layers were chosen", chosen),
            ("outputs compared", compared),
            ("times measured", measured),
        ]
        words = " and ".join(word for word, is_so in done if is_so)
        if not self._open or not words or not self.sizes:
            return []
        shapes = ", ".join(
            f"{name} {list(shape)}" for name, shape in self.sizes.items()
        )
        more = (
            ""
            if self.origin == "given"
            else "; give others with input_shapes and axes (--input-shape, --axis)"
        )
        return [f"{words} for the sizes {shapes}, which were {self.origin}{more}"]

    def run(self, candidates: Iterator[dict[str, Any]]) -> None:
        """Run the file on the first of these inputs that it takes; `problem` where there is none.

        Raises InputError when the user gave all inputs and the model does not take them.
        """
        try:
            runtime = Runtime(self.file, library_for(load_onnx(self.file)))
        except (ExportError, RuntimeLibraryError) as error:
            self.problem = f"the original does not run here ({_one_line(error)})"
            return
        self._names = [item.name for item in runtime.session.get_outputs()]
        tried, refusal = 0, ""
        # The first that runs is enough; the reason told is that of the first that does
        # not, being the likeliest input.
        for feed in candidates:
            try:
                self._expected, self.feed = runtime.run_feed(feed), feed
                break
            except ExportError as error:
                tried, refusal = tried + 1, refusal or _one_line(error)
        if self.feed is None and self._needed <= self.asked.inputs.keys():
            raise InputError(
                f"{self.file} does not run on the inputs given: {refusal}; give others (inputs=)"
            )
        if self.feed is None:
            what = (
                "at the sizes given"
                if self.asked != Asked()
                else f"on any of {tried} made-up inputs"
            )
            self.problem = f"the original does not run {what} ({refusal}); give inputs= that it takes"
            return
        self._look_for_random(runtime)

    def _look_for_random(self, runtime: Runtime) -> None:
        """Run once more where random numbers are drawn: those with seeds repeat in a new session, others never."""
        model = load_onnx(self.file)
        if nodes := random_nodes(model):
            again = (
                Runtime(self.file, library_for(model)) if is_seeded(nodes) else runtime
            )
            self.random = unlike_outputs(
                self._names, self._expected, again.run_feed(self.feed or {}), _ITSELF
            )

    def differences(
        self, written: Path, limit: float, library: str | None
    ) -> tuple[float | None, float | None]:
        """The largest differences between the outputs of both files, None where nothing can be compared.

        Raises ExportError above `limit`, unless the original differs from itself as much.
        """
        if self.feed is None:
            self.notes.append(f"outputs were not compared: {self.problem}")
            return None, None
        got = Runtime(written, library).run_feed(self.feed)
        try:
            return self._compared(got, limit)
        except ExportError:
            runtime = Runtime(self.file, library_for(load_onnx(self.file)))
            # A difference may be the original's own: it runs twice more in a new session,
            # which tells random outputs from wrong ones.
            first, second = runtime.run_feed(self.feed), runtime.run_feed(self.feed)
            unstable = unlike_outputs(self._names, self._expected, first, _ITSELF)
            unstable |= unlike_outputs(self._names, first, second, _ITSELF)
            self.random |= unstable
            bounds = dict.fromkeys(self._names, limit)
            if library is not None:
                # Sparse operators add in another order, of which steep models make more.
                bounds |= {
                    name: max(limit, noise) for name, noise in self._rounding().items()
                }
            # Neither randomness nor rounding explains it, so the difference counts.
            if not unstable and set(bounds.values()) == {limit}:
                raise
            found = self._compared(got, bounds)
            if found[1] is not None and found[1] > limit:
                self.notes.append(
                    f"the largest difference is {found[1]:.1e} of an output's largest value, more than the usual "
                    f"{limit:g}, but rounding alone makes as much of the original"
                )
            return found

    def agree(self, first: Path, second: Path) -> bool:
        """Whether two files in standard operators give the same outputs, but for random ones."""
        one, two = (
            Runtime(file, None).run_feed(self.feed or {}) for file in (first, second)
        )
        stable = [at for at, name in enumerate(self._names) if name not in self.random]
        names = [self._names[at] for at in stable]
        try:
            return compare(
                [one[at] for at in stable],
                [two[at] for at in stable],
                names,
                0.0,
                _ORIGINAL,
            ) == (0.0, 0.0)
        except ExportError:
            return False

    def _rounding(self) -> dict[str, float]:
        """How far rounding alone moves each output of the original; nothing where that cannot be tried."""
        try:
            # The same model with its weights moved by a rounding error, as passes over
            # graphs are judged by.
            reference = Reference(self._model, [self.feed or {}])
            return {
                name: min(noise, MOST)
                for name, noise in zip(reference.names, reference.noise, strict=True)
            }
        except PassError:
            return {}

    def _compared(
        self, got: list[Any], limit: float | Mapping[str, float]
    ) -> tuple[float | None, float | None]:
        """The differences of the outputs that are not random; `limit` for all, or for each by its name."""
        limits = (
            limit if isinstance(limit, Mapping) else dict.fromkeys(self._names, limit)
        )
        stable = [
            place for place, name in enumerate(self._names) if name not in self.random
        ]
        found: tuple[float | None, float | None] = (None, None)
        if stable or not self._names:
            pairs = [
                compare(
                    self._expected[at : at + 1],
                    got[at : at + 1],
                    [name],
                    limits[name],
                    _ORIGINAL,
                )
                for at, name in enumerate(self._names)
                if at in stable
            ]
            found = (
                max((a for a, _ in pairs), default=0.0),
                max((r for _, r in pairs), default=0.0),
            )
        if self.random:
            names = ", ".join(sorted(map(repr, self.random)))
            self.notes.append(
                f"outputs were not compared where the original differs from itself from run to run: {names}"
            )
        return found


def trial_of(
    file: Path,
    model: onnx.ModelProto,
    reader: TensorReader,
    asked: Asked,
    *,
    run: bool,
    shapes: bool,
) -> Trial:
    """What `file`, whose dense form is `model`, runs on: what is asked for, and made-up inputs.

    Args:
        run: try them out, and remember the outputs.
        shapes: also read the shapes of all values off that run.

    Raises InputError or UnknownNameError for what contradicts the model or is not in it.
    """
    check_asked(model, asked)
    trial = Trial(file, model, asked)
    try:
        candidates = feeds(model, asked)
        if run:
            trial.run(candidates)
        else:
            trial.feed = next(candidates)
    except InputError as error:
        if trial._needed <= asked.inputs.keys():
            raise
        trial.problem = str(error)
    # Only for the choice of layers: asking for every shape makes a session of its own.
    if run and shapes and trial.feed is not None:
        trial.shapes = shapes_of_run(file, model, reader, trial.feed)
    return trial
