"""Does pruning a real network first raise its test accuracy, and how does that depend on the number of images?

[Zhang 2021], section 5.2, Fig. 7: IMP of LeNet-5, here on digits.
"""

from sparsify_fx.lab.imp_lenet5.experiment import imp_lenet5, measure
from sparsify_fx.lab.imp_lenet5.protocols import CODE, MENDED, OURS, Protocol
from sparsify_fx.lab.imp_lenet5.runs import (
    FULL,
    Digits,
    Size,
    accuracies,
    accuracy,
    load_digits,
)

__all__ = [
    "CODE",
    "FULL",
    "MENDED",
    "OURS",
    "Digits",
    "Protocol",
    "Size",
    "accuracies",
    "accuracy",
    "imp_lenet5",
    "load_digits",
    "measure",
]
