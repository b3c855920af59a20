"""Fast training on CPUs: which layers compute with the living entries of their weights alone.

Why a room of its own: `sparsify_fx.living.products` has the kernels and knows no models; here a model is gone through.
"""

from sparsify_fx.acceleration.accelerate import accelerate, decelerate, tried
from sparsify_fx.acceleration.asked import (
    DENSE,
    check_kernels,
    check_library,
    check_takers,
)

__all__ = [
    "DENSE",
    "accelerate",
    "check_kernels",
    "check_library",
    "check_takers",
    "decelerate",
    "tried",
]
