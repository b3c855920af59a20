"""The state that optimizers keep for pruned, regrown, settled and rewound weights.

Optimizers keep more than zeros: Rprop a step size, Adagrad an accumulator, schedule-free and Lookahead copies of the
parameters, D-adaptation counters in the groups. What a new parameter's state would be is found by asking the optimizer
itself (`fresh`); wrappers are looked through (`holders`); snapshots hold plain types and tensors only (`records`).
"""

from sparsify_fx.optimizer_states.check import check_layouts, check_supported
from sparsify_fx.optimizer_states.clear import clear_entries, following, settled
from sparsify_fx.optimizer_states.records import (
    restore_optimizer_state,
    take_optimizer_state,
)
from sparsify_fx.optimizer_states.restless import restless

__all__ = [
    "check_layouts",
    "check_supported",
    "clear_entries",
    "following",
    "restless",
    "restore_optimizer_state",
    "settled",
    "take_optimizer_state",
]
