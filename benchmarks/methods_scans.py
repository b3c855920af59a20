"""The constant strengths that benchmarks/methods_table.py scans, and which of them it chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# In place of a sparsity, where a method knows none: it trains once for all columns.
ANY = "any"
SUFFIX = ", scanned"
Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Scan:
    """A penalty with several strengths, each of which stays as it is for the whole training.

    Attributes:
        penalty: its name.
        strengths: ascending.
        options: further options of the penalty; `reach: 1` is what keeps a strength constant.
        targeted: whether the method meets the requested sparsity whatever the strength.
    """

    penalty: str
    strengths: tuple[float, ...]
    options: tuple[tuple[str, float], ...] = (("reach", 1.0),)
    targeted: bool = True

    def axes(self, strength: float) -> dict[str, Any]:
        """The axes of a recipe with this strength."""
        options = dict(self.options)
        return {"penalty": {"name": self.penalty, "strength": strength, **options}}


SCANS = {
    "cs": Scan("gates", (3e-5, 1e-4, 3e-4)),
    "l0": Scan("gates", (3e-4, 1e-3, 3e-3, 1e-2)),
    "l1": Scan("l1", (3e-4, 1e-3, 3e-3)),
    # Its rule changes the strength by a hundredth an epoch, which 20 epochs hardly notice.
    "pilot": Scan("pilot", (3e-4, 1e-3, 3e-3, 1e-2), ()),
    "pilot-init": Scan("factors", (3e-4, 1e-3, 3e-3, 1e-2)),
    "spred": Scan("factors", (1e-3, 2e-3, 5e-3, 1e-2)),
    "str": Scan("thresholds", (1e-2, 2e-2, 3e-2)),
    "str-constant": Scan("thresholds", (3e-2, 4e-2, 4.5e-2, 1e-1), targeted=False),
}


def scan_of(row: str) -> Scan | None:
    """The scan behind a row of the table, None for a row with the method's own strength."""
    return SCANS[row.removesuffix(SUFFIX)] if row.endswith(SUFFIX) else None


def chosen(scan: Scan, found: Found, sparsity: float) -> float | None:
    """The strength with the highest validation accuracy, of equal ones the smallest; None where none was trained.

    Where the sparsity is what comes out, accuracy would always choose the densest net: there it is the strength whose
    share of weights left is nearest to the requested one, as a ratio.

    >>> scan = Scan("l1", (0.1, 0.2))
    >>> chosen(scan, {"0.1": {"validation": 0.5}, "0.2": {"validation": 0.75}}, 0.9)
    0.2
    """
    done = [s for s in scan.strengths if "validation" in found.get(f"{s:g}", {})]
    if not done:
        return None
    if scan.targeted:
        return max(done, key=lambda s: found[f"{s:g}"]["validation"])
    return min(done, key=lambda s: _missed(found[f"{s:g}"]["sparsity"], sparsity))


def _missed(sparsity: float, requested: float) -> float:
    return abs(math.log(max(1 - sparsity, 1e-9) / (1 - requested)))
