"""The figures and tables of the four papers by name: what each shows, a sweep or experiment for it, ours beside theirs.

`catalog.py` finds the files in `sparsify_fx/zoo/recipes/reproduce`, `plans.py` makes a sweep of one, `measures.py`
reads the numbers out of its runs, `agreement.py` compares them with the paper's, `run.py` puts it together.
"""

from sparsify_fx.reproduce.catalog import figures, find
from sparsify_fx.reproduce.figure import Claim, Figure, Point
from sparsify_fx.reproduce.run import Reproduced, reproduced

__all__ = ["Claim", "Figure", "Point", "Reproduced", "figures", "find", "reproduced"]
