"""The papers' small theory experiments: `sparsify-fx lab NAME`.

A folder for each experiment; `common` holds what several share, `run` lists and runs them.
"""

from sparsify_fx.lab.base import EXPERIMENTS, Check, Experiment, Findings
from sparsify_fx.lab.run import (
    LabResult,
    all_experiments,
    find_experiment,
    run_experiment,
)
from sparsify_fx.tables.fitting import Grid

__all__ = [
    "EXPERIMENTS",
    "Check",
    "Experiment",
    "Findings",
    "Grid",
    "LabResult",
    "all_experiments",
    "find_experiment",
    "run_experiment",
]
