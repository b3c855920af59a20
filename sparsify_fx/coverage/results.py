"""What a sweep found, as a file that the next run goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsify_fx.errors import CheckpointError
from sparsify_fx.train.files import write_text

PASSED, FAILED, NO_EXPORT = "passed", "failed", "dense model does not export"
_LIBRARIES = (
    "sparsify_fx",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
)


@dataclass(frozen=True)
class Outcome:
    """What one check said.

    Attributes:
        state: "passed", "failed", or "dense model does not export".
        note: the reason of a failure, or a remark.
        seconds: the processor time that it took.
    """

    state: str
    note: str = ""
    seconds: float = 0.0


@dataclass
class ModelResult:
    """What is known of one model: which checks ran, with which outcome.

    Attributes:
        suite, name, group, parameters: as in `Subject`.
        inputs: the shape of the input that it was given.
        weights: the number of weights that programs computed.
        checks: outcomes by the name of the check.
        peak_memory: the most memory that its process held, in bytes.
    """

    suite: str
    name: str
    group: str
    parameters: int
    inputs: str = ""
    weights: int = 0
    checks: dict[str, Outcome] = field(default_factory=dict)
    peak_memory: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Suite and name: what one result is told from another by, for names are in both libraries."""
        return self.suite, self.name

    def failures(self) -> dict[str, str]:
        """The reason by the name of each check that failed."""
        return {
            name: outcome.note
            for name, outcome in self.checks.items()
            if outcome.state == FAILED
        }

    def seconds(self) -> float:
        """The processor time of all checks together."""
        return sum(outcome.seconds for outcome in self.checks.values())


def versions() -> dict[str, str]:
    """The installed versions that the outcome depends on, without the build ("2.15.0+cpu" is "2.15.0")."""
    return {name: version(name).partition("+")[0] for name in _LIBRARIES}


def to_document(results: Iterable[ModelResult]) -> dict[str, Any]:
    """The JSON document of a sweep."""
    return {"versions": versions(), "results": [asdict(result) for result in results]}


def write_results(path: Path, results: Iterable[ModelResult]) -> None:
    """Write the document, whole or not at all."""
    write_text(path, json.dumps(to_document(results), indent=1) + "\n")


def read_results(path: Path, *, same_versions: bool = True) -> list[ModelResult]:
    """The results in a file of this command.

    Raises CheckpointError for a file of another kind and, with `same_versions`, for one of other library versions.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["versions"]
        results = [_result(entry) for entry in document["results"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} holds no coverage results ({error}); give another file"
        ) from error
    # One table must not mix what two versions of a library did.
    odd = [
        f"{name} {found.get(name)}"
        for name, here in versions().items()
        if found.get(name) != here
    ]
    if same_versions and odd:
        raise CheckpointError(
            f"{path} was made with {', '.join(odd)}; give another file, or remove this one"
        )
    return results


def _result(entry: dict[str, Any]) -> ModelResult:
    """One result out of its JSON; KeyError or TypeError for another kind of entry."""
    # A key that is unknown or missing is a TypeError here, which `read_results` tells as a file of another kind.
    checks = {name: Outcome(**outcome) for name, outcome in entry["checks"].items()}
    return ModelResult(**{**entry, "checks": checks})
