"""Penalties: terms that `scheduler.penalty()` adds to the loss."""

from sparsify_fx.penalties.base import (
    PENALTIES,
    AdaptivePenalty,
    NoPenalty,
    Observation,
    Penalty,
)
from sparsify_fx.penalties.factors import FactorDecay
from sparsify_fx.penalties.gates import Gated, OpenGates, ThresholdDecay
from sparsify_fx.penalties.pilot import Pilot
from sparsify_fx.penalties.sums import PenaltySum
from sparsify_fx.penalties.towards import UPDATES, TowardsSparsity, goal
from sparsify_fx.penalties.weights import L1, L2, Frobenius

__all__ = [
    "L1",
    "L2",
    "PENALTIES",
    "UPDATES",
    "AdaptivePenalty",
    "FactorDecay",
    "Frobenius",
    "Gated",
    "NoPenalty",
    "Observation",
    "OpenGates",
    "Penalty",
    "PenaltySum",
    "Pilot",
    "ThresholdDecay",
    "TowardsSparsity",
    "goal",
]
