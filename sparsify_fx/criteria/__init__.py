"""Criteria: a score for every weight; the highest scores stay."""

from sparsify_fx.criteria.base import (
    CRITERIA,
    Brief,
    Criterion,
    EarlyCheck,
    FindsSparsity,
    FunctionCriterion,
    PruningContext,
    Scores,
    Update,
    Updating,
    check_inputs,
    criterion,
    criterion_name,
    find_criterion,
    pruning_generator,
)
from sparsify_fx.criteria.fisher import Fisher
from sparsify_fx.criteria.gradients import Gradient, GraSP, Snip, gradient, snip
from sparsify_fx.criteria.masks_of import MasksOf
from sparsify_fx.criteria.momentum import Momentum
from sparsify_fx.criteria.nonzero import NonZero
from sparsify_fx.criteria.npb import NodePathBalance
from sparsify_fx.criteria.phew import Phew
from sparsify_fx.criteria.rehearsal import rehearse
from sparsify_fx.criteria.surgeon import CAP, WoodFisher
from sparsify_fx.criteria.synflow import Synflow
from sparsify_fx.criteria.weights import magnitude, random

__all__ = [
    "CAP",
    "CRITERIA",
    "Brief",
    "Criterion",
    "EarlyCheck",
    "FindsSparsity",
    "Fisher",
    "FunctionCriterion",
    "GraSP",
    "Gradient",
    "MasksOf",
    "Momentum",
    "NodePathBalance",
    "NonZero",
    "Phew",
    "PruningContext",
    "Scores",
    "Snip",
    "Synflow",
    "Update",
    "Updating",
    "WoodFisher",
    "check_inputs",
    "criterion",
    "criterion_name",
    "find_criterion",
    "gradient",
    "magnitude",
    "pruning_generator",
    "random",
    "rehearse",
    "snip",
]
