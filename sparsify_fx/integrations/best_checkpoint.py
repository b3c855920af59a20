"""Lightning's EarlyStopping and ModelCheckpoint, held to states that have the sparsity.

A model is mostly best before its last prunings. So scores of unfinished states neither stop a training nor stand in the
list of the best once there are finished ones; until then they are kept as usual, for a training may have to go on from
them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from sparsify_fx.integrations.training import SparseTraining

_LOG = logging.getLogger(__name__)
HOOKS = ("on_validation_end", "on_train_epoch_end")


class Judges:
    """The callbacks of a Trainer that judge by a score, found by what they have: both packages of Lightning have them.

    While a training runs, a method of each is replaced on the object itself; `release` puts everything back.
    """

    def __init__(self, training: SparseTraining) -> None:
        self._training = training
        self._watched: list[tuple[Any, str]] = []
        # The keys of the ModelCheckpoints whose best are all of unfinished states.
        self._unfinished: set[str] = set()

    def watch(self, trainer: Any) -> None:
        """Take hold of the judges among the Trainer's callbacks."""
        for callback in trainer.callbacks:
            if getattr(callback, "monitor", None) is None:
                continue
            if hasattr(callback, "check_monitor_top_k"):
                by = functools.partial(self._ranks, callback)
                self._replace(callback, "check_monitor_top_k", by)
            elif hasattr(callback, "patience"):
                for hook in HOOKS:
                    check = getattr(callback, hook)
                    self._replace(callback, hook, functools.partial(self._stops, check))

    def release(self) -> None:
        """Give the callbacks their own methods back."""
        for callback, name in self._watched:
            vars(callback).pop(name, None)
        self._watched.clear()

    def state_dict(self) -> dict[str, Any]:
        """Which lists of best checkpoints are of unfinished states."""
        return {"unfinished": sorted(self._unfinished)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._unfinished = set(state["unfinished"])

    def _replace(self, callback: Any, name: str, by: Callable[..., Any]) -> None:
        setattr(callback, name, by)
        self._watched.append((callback, name))

    def _stops(self, check: Callable[..., None], *args: Any) -> None:
        """EarlyStopping looks at states that have the sparsity, and does not wait for others to get better."""
        if self._training.at_sparsity:
            check(*args)

    def _ranks(self, callback: Any, trainer: Any, current: Any = None) -> bool:
        """Whether ModelCheckpoint keeps this state among its best."""
        key = callback.state_key
        if not self._training.at_sparsity:
            # A list of finished states has no room for others: their scores are not of the same thing.
            if callback.best_k_models and key not in self._unfinished:
                return False
            self._unfinished.add(key)
        elif key in self._unfinished:
            self._unfinished.discard(key)
            _forget(callback)
        ranks: bool = type(callback).check_monitor_top_k(callback, trainer, current)
        return ranks


def _forget(callback: Any) -> None:
    """Begin the list of the best anew. The files stay: one of them may be the last from which a training can go on."""
    old = list(callback.best_k_models)
    callback.best_k_models, callback.kth_best_model_path = {}, ""
    callback.best_model_path, callback.best_model_score = "", None
    callback.kth_value = torch.tensor(
        torch.inf if callback.mode == "min" else -torch.inf
    )
    if old:
        _LOG.info(
            "the sparsity is reached: %d checkpoints of denser states are no longer among the best and are kept: %s",
            len(old),
            ", ".join(old),
        )
