"""What an ONNX file that was packed is run on, and how its outputs are compared with those of the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from sparsify_fx.errors import ExportError, RuntimeLibraryError
from sparsify_fx.onnx_export.made_up import made_up_inputs
from sparsify_fx.onnx_export.sparse_ort import library_for
from sparsify_fx.onnx_export.tensors import load_onnx
from sparsify_fx.onnx_export.verify import Runtime, compare

Feed = Mapping[str, NDArray[Any]]


class CannotRunError(Exception):
    """The original file does not run on the inputs there are."""


@dataclass(frozen=True)
class Trial:
    """The original file and what to run it on; `problem`: why there is nothing to run it on."""

    file: Path
    given: Feed | None
    problem: str = ""

    @property
    def feed(self) -> Feed:
        """The inputs by name; CannotRunError where none could be made up."""
        if self.given is None:
            raise CannotRunError(self.problem)
        return self.given

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs; none where none could be made up."""
        return {name: array.shape for name, array in (self.given or {}).items()}

    def differences(self, written: Path, limit: float, library: str | None) -> tuple[float, float]:
        """The largest differences between the outputs of both files; ExportError above `limit`."""
        try:
            first = Runtime(self.file, library_for(load_onnx(self.file)))
            expected, names = first.run_feed(self.feed), [item.name for item in first.session.get_outputs()]
            del first
        except (ExportError, RuntimeLibraryError) as error:
            raise CannotRunError(f"the original does not run on made-up inputs ({error})") from error
        return compare(expected, Runtime(written, library).run_feed(self.feed), names, limit, "the original file")


def trial_of(file: Path, model: onnx.ModelProto, inputs: Feed | None) -> Trial:
    """What to run `file`, whose dense form is `model`, on: the inputs given, or made-up ones."""
    try:
        return Trial(file, made_up_inputs(model) if inputs is None else inputs)
    except ExportError as error:
        return Trial(file, None, str(error))
