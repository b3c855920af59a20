"""What no parameterization can do for one neuron, what β by layer can, and what a finite sample changes.

[Gadhikar 2025], Theorems 5.2 and 5.4; [Gadhikar 2024], appendix A.1, "finite sample considerations".
"""

from sparsify_fx.lab.neuron_theorems.experiment import (
    FULL,
    Size,
    measure,
    neuron_theorems,
)

__all__ = ["FULL", "Size", "measure", "neuron_theorems"]
