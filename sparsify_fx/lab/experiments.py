"""Imports every experiment, so that each registers itself."""

from sparsify_fx.lab import neuron_signin

__all__ = ["neuron_signin"]
