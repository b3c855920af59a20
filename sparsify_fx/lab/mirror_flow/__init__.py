"""Does m ⊙ w with a decaying weight decay end at the optimum of its potential, and how fast; why not neuron by neuron?

[Jacobs 2025], Theorem 2.2 (linear rate), Theorem 2.3 (optimality) and Lemma D.1 (no mirror flow for neurons).
"""

from sparsify_fx.lab.mirror_flow.experiment import FULL, Size, measure, mirror_flow

__all__ = ["FULL", "Size", "measure", "mirror_flow"]
