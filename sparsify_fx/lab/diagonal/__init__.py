"""Does PILoT's start of m ⊙ w escape where spred's cannot flip a sign, and is weight decay a mirror flow?

[Jacobs 2025], section 4, Theorem 2.1 and Lemma B.1: sparse regression with a diagonal linear network, against L1.
"""

from sparsify_fx.lab.diagonal.experiment import diagonal, measure
from sparsify_fx.lab.diagonal.runs import FULL, Size

__all__ = ["FULL", "Size", "diagonal", "measure"]
