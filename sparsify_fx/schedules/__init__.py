"""Schedules: when the masks change, and to which density."""

from sparsify_fx.schedules.alternating import Alternating
from sparsify_fx.schedules.base import (
    SCHEDULES,
    Budget,
    ForTrained,
    OneRun,
    Schedule,
    check_times,
)
from sparsify_fx.schedules.cubic import Cubic
from sparsify_fx.schedules.cycles import Cycles
from sparsify_fx.schedules.early_bird import EarlyBird
from sparsify_fx.schedules.gradual import Gradual, GradualCycles
from sparsify_fx.schedules.regrow import RegrowEvery
from sparsify_fx.schedules.single import AtInit, Late, Never, OneShot

__all__ = [
    "SCHEDULES",
    "Alternating",
    "AtInit",
    "Budget",
    "Cubic",
    "Cycles",
    "EarlyBird",
    "ForTrained",
    "Gradual",
    "GradualCycles",
    "Late",
    "Never",
    "OneRun",
    "OneShot",
    "RegrowEvery",
    "Schedule",
    "check_times",
]
