"""Many trainings: grids of recipes, methods, sparsities and seeds, run on this machine or on Ray, and compared."""

from sparsify_fx.sweeps.grid import Trial, trials_of
from sparsify_fx.sweeps.plan import SweepConfig, TrialConfig, load_sweep
from sparsify_fx.sweeps.spread import Spread, spread

__all__ = [
    "Spread",
    "SweepConfig",
    "Trial",
    "TrialConfig",
    "load_sweep",
    "spread",
    "trials_of",
]
