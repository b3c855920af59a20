"""Does a sparser network need fewer samples, fewer steps and a rougher start, as the theory of lottery tickets says?

[Zhang 2021], Algorithm 1, Lemma 1, Theorems 1 and 2, Figs. 2 to 6, with a masked one-hidden-layer teacher and student.
"""

from sparsify_fx.lab.sample_complexity.experiment import measure, sample_complexity
from sparsify_fx.lab.sample_complexity.runs import FULL, Size

__all__ = ["FULL", "Size", "measure", "sample_complexity"]
