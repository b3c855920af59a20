"""Parameterizations, one file each: how a weight θ is made of trainable tensors, and how θ is split into them."""

from sparsify_fx.numerics import ulp, widened
from sparsify_fx.parameterizations.base import (
    PARAMETERIZATIONS,
    Balancing,
    Moment,
    Parameterization,
    Plain,
    Reopening,
    Tensors,
)
from sparsify_fx.parameterizations.by_layer import ByLayer
from sparsify_fx.parameterizations.dense import Dense
from sparsify_fx.parameterizations.hard_concrete import Concrete
from sparsify_fx.parameterizations.power import Power
from sparsify_fx.parameterizations.product import Balanced, Product
from sparsify_fx.parameterizations.sigmoid_gate import Sigmoid
from sparsify_fx.parameterizations.soft_threshold import Threshold

__all__ = [
    "PARAMETERIZATIONS",
    "Balanced",
    "Balancing",
    "ByLayer",
    "Concrete",
    "Dense",
    "Moment",
    "Parameterization",
    "Plain",
    "Power",
    "Product",
    "Reopening",
    "Sigmoid",
    "Tensors",
    "Threshold",
    "ulp",
    "widened",
]
