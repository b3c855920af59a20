"""Imports every experiment, so that each registers itself."""

from sparsify_fx.lab import neuron_lrr, neuron_signin

__all__ = ["neuron_lrr", "neuron_signin"]
