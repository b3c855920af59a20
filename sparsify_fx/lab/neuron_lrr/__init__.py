"""Why does learning rate rewinding (LRR) learn a sparse neuron where iterative magnitude pruning (IMP) fails?

[Gadhikar 2024], section 2, Figs. 2a and 18, and whether its closed forms (Eqs. 4 to 6) hold.
"""

from sparsify_fx.lab.neuron_lrr.experiment import measure, neuron_lrr
from sparsify_fx.lab.neuron_lrr.runs import (
    FULL,
    Pruned,
    Size,
    flips_by_rate,
    kept_counts,
    losses,
    prune_and_train,
)

__all__ = [
    "FULL",
    "Pruned",
    "Size",
    "flips_by_rate",
    "kept_counts",
    "losses",
    "measure",
    "neuron_lrr",
    "prune_and_train",
]
