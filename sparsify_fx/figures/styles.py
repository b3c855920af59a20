"""One color for each method, in every figure; and a style for what is no method."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from zlib import crc32

# Black as text and axes: a page in dark colors turns all three around together.
INK, _GRAY = "#000000", "#7F7F7F"
# [Okabe 2008], without yellow (too pale on white); black is kept for `dense`.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
# A line that lies on another one lets it through; dotted lines are for what is expected by chance.
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (7, 2, 2, 2)), (0, (3, 3)))

# Eight colors for all methods: those of one line share one, and differ in marker and dashes. What papers compare stands
# on different lines.
_BY_COLOR = {
    INK: ("dense", "keep-zeros"),
    _GRAY: ("random", "imp-rand", "lrr-rand", "edge-popup", "rare-gems"),
    PALETTE[0]: (
        "lrr",
        "lrr-bn",
        "lrr-nowarmup",
        "str",
        "woodfisher",
        "woodfisher-gradual",
    ),
    PALETTE[1]: ("signin", "snip", "pilot-init", "cs"),
    PALETTE[2]: ("wr", "rigl", "lrr+signin", "grasp", "spred", "set"),
    PALETTE[3]: ("gmp", "synflow", "l0", "obd", "cap", "phew", "npb", "early-bird"),
    PALETTE[4]: ("magnitude", "pilot", "powerprop", "srigl", "probmask"),
    PALETTE[5]: ("imp", "acdc", "l1", "snfs"),
}
_OF_METHOD: dict[str, tuple[str, int]] = {}
for _shade, _methods in _BY_COLOR.items():
    _OF_METHOD |= {method: (_shade, place) for place, method in enumerate(_methods)}
Style = dict[str, Any]


def method_of(label: str) -> str:
    """The method that the label of a line begins with: a label names a run, a method, or a row of a table.

    >>> method_of("lrr+signin-0123456789"), method_of("IMP 0.9"), method_of("signin, factors")
    ('lrr+signin', 'imp', 'signin')
    """
    first = re.split(r"[\s,]", label.strip(), maxsplit=1)[0]
    return re.sub(r"-[0-9a-f]{10}$", "", first.lower())


def styles_of(labels: Iterable[str]) -> dict[str, Style]:
    """Color, marker and dashes by label: a method's color is its own in every figure, whatever stands beside it.

    Several runs of one method have its color, and markers and dashes that differ. A method of somebody else's takes a
    color by its name, another one where that is taken in this figure.

    >>> styles_of(["lrr", "imp"])["imp"]["color"] == styles_of(["imp"])["imp"]["color"]
    True
    """
    names = list(dict.fromkeys(labels))
    known = {_OF_METHOD[m][0] for m in map(method_of, names) if m in _OF_METHOD}
    others: dict[str, str] = {}
    seen: set[tuple[str, int]] = set()
    found = {}
    for label in names:
        method = method_of(label)
        # Two pairs of runs begin with one method, and are not that method: by the whole label.
        key = method if " & " not in label else label
        if key in _OF_METHOD:
            shade, place = _OF_METHOD[key]
        else:
            shade, place = others.get(key) or _free(key, known | {*others.values()}), 0
            others[key] = shade
        while (shade, place) in seen:
            place += 1
        seen.add((shade, place))
        found[label] = _style(shade, place)
    return found


def series(index: int) -> Style:
    """Color, marker and dashes of line number `index` of what is no method: sample counts, layers, noise."""
    return _style(color(index), index)


def color(index: int) -> str:
    """The color of line number `index` of what is no method."""
    return PALETTE[index % len(PALETTE)]


def _style(shade: str, place: int) -> Style:
    return {
        "color": shade,
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
    }


def _free(name: str, taken: set[str]) -> str:
    """A color by the name; the next one that this figure does not show yet, while there is one."""
    first = crc32(name.encode()) % len(PALETTE)
    turned = PALETTE[first:] + PALETTE[:first]
    return next((shade for shade in turned if shade not in taken), turned[0])
