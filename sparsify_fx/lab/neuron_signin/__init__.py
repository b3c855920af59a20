"""From which signs of (a, w₁) does a neuron recover its teacher: sparse, overparameterized, and with Sign-In?

[Gadhikar 2025], section 5, Tables 2 and 8, Figs. 3 and 7.
"""

from sparsify_fx.lab.neuron_signin.experiment import measure, neuron_signin
from sparsify_fx.lab.neuron_signin.runs import FULL, Size

__all__ = ["FULL", "Size", "measure", "neuron_signin"]
