"""What a runtime is known to do with a file: facts, from which the form of its weights follows."""

from __future__ import annotations

from dataclasses import dataclass

# Words, not objects of `storage`, which reads the profiles.
LOSSLESS_AND_LOSSY = ("fp32", "fp32-packed", "fp16", "int8")


@dataclass(frozen=True)
class Profile:
    """A target for `export` and `pack_onnx`.

    `name`: the word for users; `runs_in`: the runtime, as it is called in its package index; `checked`: the version
    that all of this was seen in. `encodings`: the ones that it may be given, of which `auto` takes the smallest.
    `operators`: those that it folds into constants when it loads a file; no weight is stored in a form that needs
    others. `largest`: weights of more entries are not folded, and stay dense. `values`: kinds of values that were
    decoded to the right bits, once. `functions`: whether it takes local functions. `newest_opset`: the newest of the
    standard operators that was tried; None: any. `note`: a sentence for the report.

    >>> Profile("mine", "mine", "1.0", operators=frozenset({"Gather"})).encodings
    ('dense',)
    """

    name: str
    runs_in: str
    checked: str
    operators: frozenset[str] = frozenset()
    encodings: tuple[str, ...] = ("dense",)
    values: tuple[str, ...] = ("fp32",)
    functions: bool = False
    largest: int | None = None
    newest_opset: int | None = None
    note: str = ""
