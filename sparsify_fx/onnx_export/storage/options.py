"""What was asked for, and which ways to store a weight that leaves."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sparsify_fx.onnx_export.profiles import PROFILES, Profile
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES, Weight
from sparsify_fx.onnx_export.storage.codecs.choosing import (
    Choice,
    Family,
    choices,
    untouched,
)
from sparsify_fx.onnx_export.storage.codecs.gap import GAP
from sparsify_fx.onnx_export.storage.packable import SMALL

ENCODING_NAMES = ("auto", *ENCODINGS)
"""Names for `export(encoding=...)`; auto takes for each tensor whichever gives the fewest bytes."""

VALUE_NAMES = tuple(VALUES)
"""Names for `export(values=...)`."""

# For `auto`, the smallest first: `gap` brings tables of its own, and `bitmask` others. A
# model of a few small weights is smallest without any of them, which no choice weight by
# weight would find. `coo` shares nothing, but has to be worth its price (`smallest`).
_DECODED = (["dense"], ["dense", "gap"], ["dense", "gap", "bitmask"])


@dataclass(frozen=True)
class Wanted:
    """How weights are to be stored, and for which runtime.

    `functions`: each as one call of a local function that rebuilds it; `autotune`: layers are timed on this machine;
    `measure`: so is the whole file, and sparse layers are given back until it is not slower than dense.
    """

    encoding: str = "auto"
    values: str = "fp32"
    functions: bool = False
    target: str = "onnx"
    autotune: bool = False
    measure: bool = False

    @property
    def profile(self) -> Profile:
        """What is known of the runtime."""
        return PROFILES[self.target]


def families(wanted: Wanted, opset: int) -> list[Family]:
    """The sets of encodings, and of values, of which each may make the smallest file."""
    encodings = [frozenset(ENCODINGS)]
    if wanted.encoding == "auto":
        known = wanted.profile.encodings
        found = [frozenset(names).intersection(known) for names in _DECODED]
        sparse = [names | {"coo"} for names in found if "coo" in known]
        # Before opset 11 there is nothing but `coo` to leave zeros out with.
        encodings = sparse if sparse and opset < GAP.opset else [*found, *sparse]
    # Lossy values were asked for by the user, so size has no say in them; lossless ones
    # compete with plain fp32.
    values = [frozenset(VALUES)]
    if VALUES[wanted.values].lossless and wanted.values != "fp32":
        # What packed values share, tables and nodes, may be more than they save.
        values.insert(0, frozenset(["fp32"]))
    return list(itertools.product(encodings, values))


def options(
    weight: Weight, size: int, wanted: Wanted, prunable: bool, opset: int
) -> list[Choice]:
    """The ways to store one tensor; at least one."""
    kind = VALUES[wanted.values]
    kinds = (
        [VALUES["fp32"]] if not prunable or kind.refuses(weight) is not None else [kind]
    )
    # Both lose nothing, so the smaller may win: of many exponents the packed form can be
    # larger.
    if kinds[0].lossless and kind.name != "fp32" and prunable:
        kinds.append(VALUES["fp32"])
    if wanted.encoding == "auto":
        # The nodes that rebuild a weight take some hundred bytes alone.
        if size <= SMALL:
            return [untouched(weight.array, size, weight.zero)]
        encodings = [
            encoding
            for encoding in ENCODINGS.values()
            if encoding.opset <= opset and encoding.name in wanted.profile.encodings
        ]
    else:
        encodings = [ENCODINGS[wanted.encoding]]
    # What the runtime would decode again in every run stays as it is.
    largest = wanted.profile.largest
    if largest is not None and weight.array.size > largest:
        return [untouched(weight.array, size, weight.zero)]
    # A weight without zeros has no choices, nor one that the encoding asked for refuses: it is stored dense.
    for allowed in (encodings, [ENCODINGS["dense"]]):
        found: list[Choice] = []
        for each in kinds:
            found += choices(weight, allowed, each, size, wanted.profile.operators)
        if found:
            break
    return found
