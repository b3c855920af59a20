"""Imports every experiment, so that each registers itself."""

from sparsify_fx.lab import diagonal, neuron_lrr, neuron_signin, sample_complexity

__all__ = ["diagonal", "neuron_lrr", "neuron_signin", "sample_complexity"]
