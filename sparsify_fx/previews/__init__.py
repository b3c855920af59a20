"""Look before you leap: what a model consists of and costs, and what each layer's zeros would do to the loss."""

from sparsify_fx.previews.layers import LayerSummary, Summary, summary
from sparsify_fx.previews.losses import (
    LayerSensitivity,
    Sensitivity,
    sensitivity,
)

__all__ = [
    "LayerSensitivity",
    "LayerSummary",
    "Sensitivity",
    "Summary",
    "sensitivity",
    "summary",
]
