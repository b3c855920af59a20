"""The epoch that was best by the validation, and its weights.

A sparser model is never compared with a denser one: where the number of weights has fallen, the choice begins anew. So
it is a function of the lines of metrics.jsonl alone, and a training that was killed comes to the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from sparsify_fx.checkpoints.run_files import BEST, read_tensors
from sparsify_fx.distributed.ranks import together
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.session import Session, fresh_model
from sparsify_fx.transfer import masked_state_dict

if TYPE_CHECKING:
    from sparsify_fx.train.epoch import EpochRow


def best_of(rows: Sequence[EpochRow]) -> EpochRow | None:
    """The first of the most accurate among the sparsest epochs; None where no epoch was validated.

    >>> from sparsify_fx.train.epoch import EpochRow
    >>> def row(epoch: int, nonzeros: int, accuracy: float) -> EpochRow:
    ...     values = dict(run=0, loss=1.0, train_accuracy=0.5, test_accuracy=None, lr=0.1, seconds=1.0)
    ...     return EpochRow(epoch=epoch, nonzeros=nonzeros, density=0.1, validation_accuracy=accuracy, **values)
    >>> best_of([row(1, 90, 0.9), row(2, 10, 0.6), row(3, 10, 0.8), row(4, 10, 0.8), row(5, 90, 0.9)]).epoch
    3
    """
    best: EpochRow | None = None
    reached = 0.0
    for row in rows:
        accuracy = row.validation_accuracy
        if accuracy is None or (best and row.nonzeros > best.nonzeros):
            continue
        if best is None or row.nonzeros < best.nonzeros or accuracy > reached:
            best, reached = row, accuracy
    return best


def keep_if_best(
    session: Session, folder: RunFolder, rows: Sequence[EpochRow], row: EpochRow
) -> None:
    """Keep the weights of an epoch that is the best of all until now, where the configuration asks for it."""
    if session.config.keep_best and best_of([*rows, row]) is row:
        with together("keeping the best weights"):
            folder.save_state(BEST, masked_state_dict(session.model))


def best_model(session: Session, folder: RunFolder) -> nn.Module:
    """A plain model with the weights that were kept, on the device."""
    state = read_tensors(folder.path / BEST)
    model = fresh_model(session.config, session.data)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model.to(session.config.device)
