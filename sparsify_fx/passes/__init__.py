"""Graph passes over weight programs; each works in place and fits torch's `PassManager`."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from sparsify_fx.moved import old_names as _old_names
from sparsify_fx.passes.insert_mask import InsertMask
from sparsify_fx.passes.lift import Lift
from sparsify_fx.passes.merge import Merge
from sparsify_fx.passes.module_pass import ModulePass
from sparsify_fx.passes.reparameterize import (
    BalancedProduct,
    HardConcrete,
    PowerPropagation,
    Product,
    Reparameterize,
    SigmoidGate,
    SoftThreshold,
)
from sparsify_fx.passes.rescale import Rescale
from sparsify_fx.passes.rewind_bn import RewindBatchNorm, batchnorm_state

__all__ = [
    "BalancedProduct",
    "HardConcrete",
    "InsertMask",
    "Lift",
    "Merge",
    "ModulePass",
    "PowerPropagation",
    "Product",
    "Reparameterize",
    "Rescale",
    "RewindBatchNorm",
    "SigmoidGate",
    "SoftThreshold",
    "batchnorm_state",
]

if not TYPE_CHECKING:
    _renamed = _old_names(
        __name__, {"SplitBalanced": "BalancedProduct", "SplitProduct": "Product"}
    )

    def __getattr__(name):
        """`passes.onnx_graph`, imported when it is first asked for: it brings onnx, which these passes do without."""
        if name == "onnx_graph":
            return _import_module("sparsify_fx.passes.onnx_graph")
        return _renamed(name)
