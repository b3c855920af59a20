"""What happened in a run, as functions on tensors and models; `sparsify_fx.analysis.analyze` reads run folders."""

from sparsify_fx.analysis.batch_norm import (
    Scales,
    describe_scales,
    reestimate,
    scale_names,
)
from sparsify_fx.analysis.channels import Channels, dead_channels
from sparsify_fx.analysis.connectivity import (
    Line,
    interpolate,
    line_between,
    loss_and_error,
)
from sparsify_fx.analysis.curvature import (
    Eigenvalue,
    Operator,
    Trace,
    hessian,
    largest_eigenvalue,
    trace,
)
from sparsify_fx.analysis.gradients import GradientNorm, gradient_flow
from sparsify_fx.analysis.loss import MeanLoss, mean_loss
from sparsify_fx.analysis.overlap import Overlap, mask_overlap, total_overlap
from sparsify_fx.analysis.pruning import PruneCurve, prune_curve
from sparsify_fx.analysis.sign_history import kept_signs, settled_after, sign_switches
from sparsify_fx.analysis.signs import (
    SignFlips,
    sign_flips,
    sign_flips_by_layer,
    without_sign,
)
from sparsify_fx.analysis.sparsity import LayerSparsity, layer_sparsity

__all__ = [
    "Channels",
    "Eigenvalue",
    "GradientNorm",
    "LayerSparsity",
    "Line",
    "MeanLoss",
    "Operator",
    "Overlap",
    "PruneCurve",
    "Scales",
    "SignFlips",
    "Trace",
    "dead_channels",
    "describe_scales",
    "gradient_flow",
    "hessian",
    "interpolate",
    "kept_signs",
    "largest_eigenvalue",
    "layer_sparsity",
    "line_between",
    "loss_and_error",
    "mask_overlap",
    "mean_loss",
    "prune_curve",
    "reestimate",
    "scale_names",
    "settled_after",
    "sign_flips",
    "sign_flips_by_layer",
    "sign_switches",
    "total_overlap",
    "trace",
    "without_sign",
]
