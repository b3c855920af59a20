"""Graph passes over weight programs; each works in place and fits torch's `PassManager`."""

from sparsify_fx.passes.insert_mask import InsertMask
from sparsify_fx.passes.lift import Lift
from sparsify_fx.passes.merge import Merge
from sparsify_fx.passes.module_pass import ModulePass
from sparsify_fx.passes.parameterize import (
    HardConcrete,
    PowerPropagation,
    SigmoidGate,
    SoftThreshold,
    SplitBalanced,
)
from sparsify_fx.passes.reparameterize import Reparameterize, SplitProduct
from sparsify_fx.passes.rescale import Rescale
from sparsify_fx.passes.rewind_bn import RewindBatchNorm, batchnorm_state

__all__ = [
    "HardConcrete",
    "InsertMask",
    "Lift",
    "Merge",
    "ModulePass",
    "PowerPropagation",
    "Reparameterize",
    "Rescale",
    "RewindBatchNorm",
    "SigmoidGate",
    "SoftThreshold",
    "SplitBalanced",
    "SplitProduct",
    "batchnorm_state",
]
