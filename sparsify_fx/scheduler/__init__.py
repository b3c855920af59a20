"""One machine in one folder: when what happens to which weights, and what is put back afterwards.

Why a room of its own: a pruning step touches clocks, masks, rates, optimizer states and snapshots, which must agree.
"""

from sparsify_fx.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
