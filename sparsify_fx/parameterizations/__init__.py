"""Parameterizations, one file each: how a weight θ is made of trainable tensors, and how θ is split into them."""

from typing import TYPE_CHECKING

from sparsify_fx.moved import old_names
from sparsify_fx.numerics import ulp, widened
from sparsify_fx.parameterizations.balanced_product import BalancedProduct
from sparsify_fx.parameterizations.base import (
    PARAMETERIZATIONS,
    Balancing,
    KnowsDensity,
    Moment,
    Parameterization,
    Plain,
    Projecting,
    Reopening,
    Tensors,
)
from sparsify_fx.parameterizations.by_layer import ByLayer, fitted
from sparsify_fx.parameterizations.dense import Dense
from sparsify_fx.parameterizations.hard_concrete import HardConcrete
from sparsify_fx.parameterizations.power_propagation import PowerPropagation
from sparsify_fx.parameterizations.probability_gate import ProbabilityGate
from sparsify_fx.parameterizations.product import Product
from sparsify_fx.parameterizations.rounded_gate import RoundedGate
from sparsify_fx.parameterizations.sigmoid_gate import SigmoidGate
from sparsify_fx.parameterizations.soft_threshold import SoftThreshold
from sparsify_fx.parameterizations.top_scores import TopScores

__all__ = [
    "PARAMETERIZATIONS",
    "BalancedProduct",
    "Balancing",
    "ByLayer",
    "Dense",
    "HardConcrete",
    "KnowsDensity",
    "Moment",
    "Parameterization",
    "Plain",
    "PowerPropagation",
    "ProbabilityGate",
    "Product",
    "Projecting",
    "Reopening",
    "RoundedGate",
    "SigmoidGate",
    "SoftThreshold",
    "Tensors",
    "TopScores",
    "fitted",
    "ulp",
    "widened",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(
        __name__,
        {
            "Balanced": "BalancedProduct",
            "Concrete": "HardConcrete",
            "Power": "PowerPropagation",
            "Sigmoid": "SigmoidGate",
            "Threshold": "SoftThreshold",
        },
    )
