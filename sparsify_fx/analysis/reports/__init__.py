"""The analyses of `sparsify-fx analyze`, one file each; importing this package registers them."""

from sparsify_fx.analysis.reports import (
    bn_cycles,
    bn_scales,
    connectivity,
    cycle_connectivity,
    dead_channels,
    gradient_flow,
    hessian,
    overlap,
    prune_curve,
    sharpness_curve,
    sign_curve,
    sign_cycles,
    sign_difference,
    signs,
    sparsity,
    stability,
)

__all__ = [
    "bn_cycles",
    "bn_scales",
    "connectivity",
    "cycle_connectivity",
    "dead_channels",
    "gradient_flow",
    "hessian",
    "overlap",
    "prune_curve",
    "sharpness_curve",
    "sign_curve",
    "sign_cycles",
    "sign_difference",
    "signs",
    "sparsity",
    "stability",
]
