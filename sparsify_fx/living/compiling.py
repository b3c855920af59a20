"""torch.compile and vectors whose length changes when masks do."""

from __future__ import annotations

import torch

# How torch names the factors of a program, and the places of its living entries, among the sources of a graph.
_SOURCES = (
    r".*_program'\]\._parameters\['[^']*'\]:0",
    r".*_program'\]\._buffers\['living'\]:0",
)


def let_lengths_change() -> None:
    """Let compiled graphs take the vectors of living storage at any length.

    The compiler takes the shape of a parameter as fixed, and would compile again whenever a mask update lets fewer
    weights live; after eight times it would give up and run the model uncompiled. It is told so for the tensors of
    weight programs alone, whatever else the user has set stays.
    """
    known = torch.compiler.config.dynamic_sources
    new = [source for source in _SOURCES if source not in known]
    torch.compiler.config.dynamic_sources = ",".join([*filter(None, [known]), *new])
