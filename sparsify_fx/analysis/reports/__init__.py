"""The analyses of `sparsify-fx analyze`, one file each; importing this package registers them, in this order."""

from sparsify_fx.analysis.reports import (  # isort: skip - the order in which they are shown
    signs,
    sign_curve,
    sign_cycles,
    sparsity,
    overlap,
    bn_scales,
    dead_channels,
    gradient_flow,
    hessian,
    sharpness_curve,
    connectivity,
)

__all__ = [
    "bn_scales",
    "connectivity",
    "dead_channels",
    "gradient_flow",
    "hessian",
    "overlap",
    "sharpness_curve",
    "sign_curve",
    "sign_cycles",
    "signs",
    "sparsity",
]
