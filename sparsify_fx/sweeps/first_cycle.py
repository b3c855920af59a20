"""The dense first cycle of prune/retrain methods, trained once for all trials that have it in common.

Until the first pruning lrr and imp, at whatever sparsity, are one training to the bit, if all else is equal. Its leader
keeps the checkpoint before the step that prunes; the others begin with it, and take that step themselves, each to its
own number of weights and with its own rewinds.

Left out is what makes first cycles differ, or cannot be taken over: penalties and actions (so signin's rescaling too),
rewinds to a point within the cycle, a learning rate that spans all cycles, snapshots, other runs to start from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsify_fx.checkpoints.run_files import CHECKPOINT, read_checkpoint
from sparsify_fx.errors import SparsifyError
from sparsify_fx.programs.owners import programs
from sparsify_fx.schedules import Cycles
from sparsify_fx.sweeps.grid import Trial
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.donors import known_digest
from sparsify_fx.train.run_folder import RunFolder, open_folder
from sparsify_fx.train.saving import FIRST_CYCLE
from sparsify_fx.train.session import Session, build_session

_LOG = logging.getLogger(__name__)
# Of a configuration: what a first cycle does not depend on, or what the axes below stand for.
_NOT_IN_IT = {"method", "sparsity", "axes", "checkpoint", "checkpoint_every"}
_NOT_IN_IT |= {"allow_other", "save_cycles"}


def first_cycle(config: TrainConfig) -> str | None:
    """What decides the first cycle of a training, as text: equal texts, equal bits. None where it is not shared."""
    axes = config.find_method().resolved()
    schedule, rewind = axes.schedule, axes.rewind
    if not isinstance(schedule, Cycles) or schedule.runs(config.sparsity) < 2:
        return None
    # "init" is the state before the first step, which every trial has itself.
    own = rewind.points() <= {"init"} and rewind.learning_rate in ("init", "warmup")
    told = axes.to_dict()
    if not own or told["actions"] or told["penalty"] != "none":
        return None
    if config.init_from or config.snapshots_at or "batches" in schedule.needs:
        return None
    content = {k: v for k, v in config.to_dict().items() if k not in _NOT_IN_IT}
    content["parameterization"] = told["parameterization"]
    # A curve that starts again later on is the same in the first run.
    content["decays"] = config.decays()
    return json.dumps(content, sort_keys=True, default=str)


def leaders_of(trials: Mapping[str, Trial]) -> dict[str, str]:
    """By the name of a trial, the one whose first cycle it begins with: of those that share it the shortest."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for trial in trials.values():
        config = trial.config({})
        # What takes from other trials would have to wait for these, and others for it.
        if trial.donors or (key := first_cycle(config)) is None:
            continue
        runs = config.find_method().resolved().schedule.runs(config.sparsity)
        groups.setdefault(key, []).append((runs, trial.name))
    leaders: dict[str, str] = {}
    for members in groups.values():
        leader = min(members, key=lambda member: member[0])[1]
        leaders |= {name: leader for _, name in members if name != leader}
    return leaders


def begin_with_first_cycle(config: TrainConfig, leader: Path, path: Path) -> None:
    """Write the first checkpoint of the run folder `path`: that of the leader before its first pruning.

    Nothing happens where the run has begun, or the leader kept none (it was trained before, or failed): the run then
    trains its own first cycle, to the same bits.
    """
    begun = (path / CHECKPOINT).exists() or RunFolder(path).result() is not None
    if begun or not (leader / FIRST_CYCLE).is_file():
        return
    try:
        _begin(config.resolved(), RunFolder(leader), path)
    except SparsifyError as error:
        _LOG.warning("%s trains its own first cycle: %s", path, error)


def _begin(config: TrainConfig, leader: RunFolder, path: Path) -> None:
    """The same, or the error for which it cannot be."""
    state = read_checkpoint(leader.path / FIRST_CYCLE)
    session = build_session(config)
    if known_digest(leader) != session.data.digest:
        raise SparsifyError(f"{leader.path} was trained on other data")
    _load(session, state)
    rows = leader.metrics(state["epoch"])
    with open_folder(path) as folder:
        # Lines first, as in a training: a checkpoint without its lines could not be resumed.
        folder.cut_metrics(0)
        for row in rows:
            folder.append(row)
        folder.write_data(leader.data() or {})
        folder.save_checkpoint({**state, **session.state_dict()})


def _load(session: Session, state: dict[str, Any]) -> None:
    """Weights, optimizer, step and rates of the leader; the schedule and its snapshots of the start stay the own."""
    own = session.scheduler.state_dict()
    theirs = state["scheduler"]
    # Programs keep the schedule that they are trained by, in an object that those of one `apply` share.
    progress = {id(p.progress): p.progress for p in programs(session.model).values()}
    schedules = {key: (p.schedule, p.steps) for key, p in progress.items()}
    moved = {**own, "step": theirs["step"], "rates": theirs["rates"]}
    session.load_state_dict({**state, "scheduler": moved})
    for key, each in progress.items():
        each.schedule, each.steps = schedules[key]
