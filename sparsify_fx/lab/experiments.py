"""Imports every experiment, so that each registers itself."""

from sparsify_fx.lab import (
    diagonal,
    imp_lenet5,
    neuron_lrr,
    neuron_signin,
    neurons_signin,
    sample_complexity,
)

__all__ = [
    "diagonal",
    "imp_lenet5",
    "neuron_lrr",
    "neuron_signin",
    "neurons_signin",
    "sample_complexity",
]
