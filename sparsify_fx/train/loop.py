"""The training loop: apply, train with the scheduler, evaluate, record; resumable at every epoch."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from torch import Tensor, nn

from sparsify_fx.api import dense_state_dict
from sparsify_fx.checkpoints.run_files import CHECKPOINT, cycle_file, epoch_file
from sparsify_fx.errors import CheckpointError, TrainingError
from sparsify_fx.randomness import seed_of
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.donors import check_data, check_donors, check_finished
from sparsify_fx.train.log import Log, open_log
from sparsify_fx.train.result import CycleResult, Result, from_plain
from sparsify_fx.train.run_folder import RESULT, RunFolder, open_folder, run_path
from sparsify_fx.train.session import Session, build_session, compiled
from sparsify_fx.train.task import as_plain
from sparsify_fx.transfer import masked_state_dict

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRow:
    """One line of metrics.jsonl. `epoch` counts from 1 over all cycles, `run` from 0.

    `loss` and `train_accuracy` are means over the epoch while it trains (augmented, in training mode);
    `test_accuracy` is None in epochs without an evaluation; `lr` is that of the epoch's last step, and so is
    `strength`, that of an adaptive penalty (0 for other methods); `kept_zeros` are the kept weights that are zero.
    """

    epoch: int
    run: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    density: float
    nonzeros: int
    lr: float
    seconds: float
    strength: float = 0.0
    kept_zeros: int = 0


def train(
    config: TrainConfig,
    *,
    runs_dir: str | os.PathLike[str] = "runs",
    force: bool = False,
    progress: bool = True,
    console: Console | None = None,
    tensorboard: bool = True,
) -> Result:
    """Run a configuration to its end in its run folder, and return what came out.

    A finished run is not repeated, an interrupted one goes on from its last checkpoint; both end bit-identical to a
    run that nothing interrupted (same machine, same number of threads). Neither is done on other data than before.

    Args:
        runs_dir: where run folders are; this one is `runs_dir`/{method}-{hash}.
        force: start afresh, over what is there.
        progress: show the timeline, a progress bar and one line per epoch.
        console: where to show them; standard output unless given.
        tensorboard: write scalars for TensorBoard too, if it is installed.

    Raises TrainingError when the loss is NaN or infinite; CheckpointError for a folder that is damaged, in use, cannot
    be written or was trained on other data, and for a run to take from that differs in more than its method; and the
    errors of `build_session` before anything is written.

    Example: `train(load_config("mnist5k-lenet5", ["method=random"])).test_accuracy` is about 0.96.
    """
    config = config.resolved()
    path = run_path(runs_dir, config)
    if not force and (known := _finished(RunFolder(path), config)) is not None:
        return known
    with _own_randomness(config.device):
        check_donors(config)
        session = build_session(config)
        with open_folder(path) as folder:
            if force:
                folder.clear()
            elif (
                known := _finished(folder, config)
            ) is not None:  # another process finished it meanwhile
                return known
            return _train(
                session, folder, console or Console() if progress else None, tensorboard
            )


def _finished(folder: RunFolder, config: TrainConfig) -> Result | None:
    """The result of a finished run on these data; None for one that is not finished."""
    content = folder.result()
    if content is None:
        return None
    try:
        result = Result.from_dict(content)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder.path / RESULT}: {error}; train again with --force"
        ) from error
    check_finished(folder, config)
    return result


def _train(
    session: Session, folder: RunFolder, console: Console | None, tensorboard: bool
) -> Result:
    config, scheduler = session.config, session.scheduler
    rows = _restore(session, folder)
    folder.write_config(config)
    digest = {"digest": session.data.digest} if session.data.digest else {}
    folder.write_data({"data": config.data, **digest, **as_plain(session.data)})
    _LOG.info(
        "training %s in %s: epoch %d of %d",
        config.method,
        folder.path,
        len(rows) + 1,
        scheduler.epochs,
    )
    train_model = compiled(session)
    if not rows:
        _keep_state(session, folder, 0)
    with open_log(
        folder.path, scheduler, session.groups, len(rows), console, tensorboard
    ) as log:
        for epoch in range(len(rows) + 1, scheduler.epochs + 1):
            row = _train_epoch(session, train_model, epoch, log, folder)
            rows.append(row)
            folder.append(asdict(row))
            log.row(asdict(row))
            _tell(row, rows)
            if epoch % config.checkpoint_every == 0 or epoch == scheduler.epochs:
                folder.save_checkpoint(
                    {
                        "epoch": epoch,
                        "nonzeros": scheduler.nonzeros(),
                        **session.state_dict(),
                    }
                )
    result = _result(session, folder, rows)
    folder.finish(dense_state_dict(session.model), result.to_dict())
    return result


def _tell(row: EpochRow, rows: Sequence[EpochRow]) -> None:
    """A line for an epoch, and one for a run (cycle) when the next one begins."""
    _LOG.debug(
        "epoch %d: loss %.4f, density %.4f, %.1f s",
        row.epoch,
        row.loss,
        row.density,
        row.seconds,
    )
    if len(rows) > 1 and row.run != rows[-2].run:
        _LOG.info(
            "run %d begins in epoch %d: density %.4f", row.run, row.epoch, row.density
        )


def _restore(session: Session, folder: RunFolder) -> list[EpochRow]:
    """Load the last checkpoint, if there is one; the rows of the epochs that are done."""
    state = folder.checkpoint(session.config.device)
    if state is None:
        folder.cut_metrics(0)
        return []
    check_data(folder, session.data.digest)
    try:
        session.load_state_dict(state)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.path / CHECKPOINT}: {error}") from error
    return [
        from_plain(EpochRow, row, f"line of epoch {row['epoch']}")
        for row in folder.cut_metrics(state["epoch"])
    ]


def _train_epoch(
    session: Session, train_model: nn.Module, epoch: int, log: Log, folder: RunFolder
) -> EpochRow:
    """One epoch. Its last scheduler step may prune and rewind, so evaluation and snapshots come before that one."""
    config, scheduler, start = session.config, session.scheduler, time.perf_counter()
    torch.manual_seed(derived_seed(config.seed, epoch))
    totals = torch.zeros(
        3, device=config.device
    )  # loss, correct, samples; read once per epoch
    session.model.train()
    for step, (x, y) in enumerate(session.training_batches(epoch), start=1):
        with session.autocast():
            outputs = train_model(x)
        loss = session.loss(outputs, y) + scheduler.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        session.optimizer.step()
        session.optimizer.zero_grad()
        totals += counts(loss, outputs, y)
        if step == scheduler.steps_per_epoch:
            row = _end_of_epoch(session, epoch, totals, start)
            scheduler.observe(accuracy=row.train_accuracy)
            _keep_state(session, folder, epoch)
        if scheduler.needs_batch:
            scheduler.score_on(x, y)
        scheduler.step()
        log.advance()
    return row


def _keep_state(session: Session, folder: RunFolder, epoch: int) -> None:
    """Weights and masks after an epoch, where the configuration asks for them; 0 is the start."""
    names = [epoch_file(epoch)] if epoch in session.config.snapshots_at else []
    if session.config.save_cycles and epoch > 0 and session.scheduler.ends_run:
        names.append(cycle_file(session.scheduler.run))
    for name in names:
        folder.save_state(name, masked_state_dict(session.model))


def _end_of_epoch(
    session: Session, epoch: int, totals: Tensor, start: float
) -> EpochRow:
    """The row of an epoch whose optimizer steps are done; TrainingError when its loss is not finite."""
    scheduler = session.scheduler
    loss, correct, samples = totals.tolist()
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch} (run {scheduler.run}): the training diverged; lower optimizer.lr "
            "or lengthen learning_rate.warmup. The run folder keeps the last checkpoint"
        )
    due = epoch % session.config.eval_every == 0 or scheduler.ends_run
    return EpochRow(
        epoch=epoch,
        run=scheduler.run,
        loss=loss / samples,
        train_accuracy=correct / samples,
        test_accuracy=evaluate(session) if due else None,
        density=scheduler.density(),
        nonzeros=scheduler.nonzeros(),
        lr=float(session.optimizer.param_groups[0]["lr"]),
        seconds=time.perf_counter() - start,
        strength=scheduler.strength,
        kept_zeros=scheduler.kept_zeros(),
    )


def evaluate(session: Session) -> float:
    """Accuracy of the current model on the test set, in [0, 1]; the model is in training mode afterwards.

    The scheduler step that follows may score weights: it must not depend on whether there was an evaluation.

    Runs the uncompiled model, so that training keeps its one graph.
    """
    session.model.eval()
    totals = torch.zeros(3, device=session.config.device)
    with torch.no_grad():
        for x, y in session.test_batches():
            with session.autocast():
                outputs = session.model(x)
            totals += counts(session.loss(outputs, y), outputs, y)
    session.model.train()
    _, correct, samples = totals.tolist()
    return float(correct / samples)


def counts(loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """(loss · samples, correct, samples) of a batch, on its device and without waiting for it."""
    correct = (outputs.argmax(1) == targets).sum()
    samples = torch.full_like(correct, len(targets))
    return torch.stack([loss.detach() * len(targets), correct, samples])


def derived_seed(seed: int, epoch: int) -> int:
    """The seed of dropout and its like in one epoch: it does not depend on where a run was resumed."""
    return seed_of(f"{seed}/{epoch}") >> 1


def _result(session: Session, folder: RunFolder, rows: list[EpochRow]) -> Result:
    ends, last = (
        {row.run: row for row in rows}.values(),
        rows[-1],
    )  # the last epoch of every run
    return Result(
        folder=str(folder.path),
        method=session.config.method,
        requested_sparsity=session.config.sparsity,
        epochs=len(rows),
        weights=session.scheduler.total_weights,
        nonzeros=last.nonzeros,
        density=last.density,
        loss=last.loss,
        train_accuracy=last.train_accuracy,
        test_accuracy=_tested(last),
        seconds=sum(row.seconds for row in rows),
        cycles=tuple(
            CycleResult(
                row.run,
                row.epoch,
                row.density,
                row.nonzeros,
                row.train_accuracy,
                _tested(row),
            )
            for row in ends
        ),
        notes=(*session.scheduler.notes, *_zeros(last)),
    )


def _zeros(row: EpochRow) -> list[str]:
    if not row.kept_zeros:
        return []
    return [
        f"{row.kept_zeros} of the {row.nonzeros} weights that the masks keep are exactly zero, so that files hold "
        f"{row.nonzeros - row.kept_zeros} non-zeros"
    ]


def _tested(row: EpochRow) -> float:
    assert row.test_accuracy is not None  # the last epoch of every run is evaluated
    return row.test_accuracy


@contextmanager
def _own_randomness(device: str) -> Iterator[None]:
    """Give the caller's random state back at the end."""
    kind = torch.device(device)
    devices = (
        [torch.cuda.current_device() if kind.index is None else kind.index]
        if kind.type == "cuda"
        else []
    )
    with torch.random.fork_rng(devices=devices):
        yield
