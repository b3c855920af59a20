"""The operators that rebuild weights. Which of them a file may hold decides the form in which a weight is stored."""

from __future__ import annotations

PORTABLE = frozenset(
    {
        "Add", "Cast", "Concat", "ConstantOfShape", "CumSum", "Div", "Expand", "Gather", "Mod", "Mul", "Range",
        "Reshape", "ScatterElements", "Slice", "Sub",
    }
)  # fmt: skip
"""Those that all runtimes known to this package compute (`docs/results/runtimes.md`)."""

FASTEST = PORTABLE | {"Abs", "MaxUnpool", "Scan", "Shape", "Squeeze"}
"""Those with which onnxruntime loads a file in the least time and memory; other runtimes refuse some of them."""
