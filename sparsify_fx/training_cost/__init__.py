"""What a sparse training costs beside a dense one: times of steps and prune events, memory, recompiles.

Why a room of its own: it is the one place that judges the others by a clock, and nothing imports it but the command
line and the benchmarks. It is not called `bench`, since a package of that name would hide the function
`sparsify_fx.bench`.
"""

from sparsify_fx.training_cost.measure import bench
from sparsify_fx.training_cost.result import Cost

__all__ = ["Cost", "bench"]
