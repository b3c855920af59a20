"""The training loop: apply, train with the scheduler, evaluate, record; resumable at every step."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from sparsify_fx.api import dense_state_dict
from sparsify_fx.checkpoints.run_files import AVERAGE, CHECKPOINT
from sparsify_fx.distributed.joining import heard_of_lost_ranks
from sparsify_fx.distributed.ranks import together
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train.best import best_model, best_of
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.donors import check_data, check_donors, check_finished
from sparsify_fx.train.epoch import EpochRow, evaluate, keep_state, train_epoch
from sparsify_fx.train.generators import own_randomness
from sparsify_fx.train.log import open_log
from sparsify_fx.train.processes import agreed, known_to_all, open_together
from sparsify_fx.train.provenance import provenance
from sparsify_fx.train.result import CycleResult, Result, from_plain
from sparsify_fx.train.run_folder import RESULT, RunFolder, run_path
from sparsify_fx.train.saving import Saver, Within, within_of
from sparsify_fx.train.session import Session, build_session
from sparsify_fx.train.signals import Asked, asked_by_signals
from sparsify_fx.train.steps import build_steps
from sparsify_fx.train.task import as_plain
from sparsify_fx.zoo.data.lost_workers import heard_of_lost_workers

_LOG = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    *,
    runs_dir: str | os.PathLike[str] = "runs",
    force: bool = False,
    progress: bool = True,
    console: Console | None = None,
    tensorboard: bool = True,
    grace: float | None = None,
    keep_first_cycle: bool = False,
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
        grace: SIGTERM, SIGUSR1 and the first Ctrl-C let it save after the step that it is at, and leave; if that takes
            more than so many seconds, the process ends without. None: signals do what they do elsewhere.
        keep_first_cycle: keep the checkpoint before the last step of the first run (cycle), for others to go on from.

    Raises TrainingError when the loss is NaN or infinite; PreemptedError when it saved and left as a signal asked;
    CheckpointError for a folder that is damaged, in use, cannot be written or was trained on other data, and for a run
    to take from that differs in more than its method; and the errors of `build_session` before anything is written.

    Example: `train(load_config("mnist5k-lenet5", ["method=random"])).test_accuracy` is about 0.96.
    """
    config = config.resolved()
    path = run_path(runs_dir, config)
    # Signals from here on: the data and the scores of a first mask may take minutes. Lost workers outermost, for torch
    # may tell of them while all else is being left.
    with (
        heard_of_lost_workers(),
        heard_of_lost_ranks("training"),
        asked_by_signals(grace) as asked,
        own_randomness(config.device),
    ):
        # Without the lock: a finished folder is never written to again, and may lie where nothing can be written.
        if not force:
            known = known_to_all(_finished(RunFolder(path), config), path)
            if known is not None:
                return known
        # All that can fail by a wrong configuration comes before the folder exists, so that mistakes leave none.
        with together("building the session"):
            check_donors(config)
            session = build_session(config)
        main = session.processes.main
        with open_together(path, main=main, force=force) as folder:
            # Another process may have finished it while this one built its session, and given the lock back.
            known = known_to_all(_finished(folder, config), path)
            if known is not None:
                return known
            shown = console or Console() if progress and main else None
            keep_at = _first_cycle(session) if keep_first_cycle else None
            return _train(session, folder, shown, tensorboard and main, asked, keep_at)


def _first_cycle(session: Session) -> int:
    """The steps of the first run but for the last, which prunes."""
    return session.config.epochs * session.scheduler.steps_per_epoch - 1


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
    session: Session,
    folder: RunFolder,
    console: Console | None,
    tensorboard: bool,
    asked: Asked,
    keep_at: int | None,
) -> Result:
    """Train on from the folder's checkpoint, or from the start, to the end."""
    config, scheduler = session.config, session.scheduler
    # 1. Go on where the checkpoint stands. The files that describe the run are written anew: an older version may
    #    have written them with fewer keys.
    rows, within = _restore(session, folder)
    agreed("going on", f"step {scheduler.step_count}", folder.path)
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

    # 2. The start counts as epoch 0 for snapshots_at; a resumed run kept it when it was begun.
    make_step = build_steps(session)
    if scheduler.step_count == 0:
        keep_state(session, folder, 0)

    # 3. Each epoch's line reaches the disk before its checkpoint: lines without a checkpoint are cut off on resuming,
    #    but a checkpoint whose lines are missing could not be resumed.
    saver = Saver(session, folder, asked, within, keep_at)
    with open_log(
        folder.path, scheduler, session.groups, len(rows), console, tensorboard
    ) as log:
        for epoch in range(len(rows) + 1, scheduler.epochs + 1):
            row = train_epoch(session, make_step, epoch, log, folder, saver, rows)
            rows.append(row)
            # An error of the process that writes is heard by the others, which would wait for its next gradients.
            with together(f"writing epoch {epoch}"):
                folder.append(asdict(row))
                log.row(asdict(row))
                _tell(row, rows)
            saver.after_epoch(epoch)

    # 4. result.json comes last and marks the run as finished, whatever kills the process before.
    result = _result(session, folder, rows, saver.seconds)
    with together("writing the result"):
        if session.average is not None:
            folder.save_state(AVERAGE, dense_state_dict(session.average.model))
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


def _restore(
    session: Session, folder: RunFolder
) -> tuple[list[EpochRow], Within | None]:
    """Load the last checkpoint, if there is one; the rows of the epochs that are done, and where in the next it is."""
    state = folder.checkpoint(session.config.device)
    # A kill in the first epochs may leave lines but no checkpoint yet: they will be trained, and written, again.
    if state is None:
        folder.cut_metrics(0)
        return [], None
    check_data(folder, session.data.digest)
    try:
        session.load_state_dict(state)
        within = within_of(state)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.path / CHECKPOINT}: {error}") from error
    rows = [
        from_plain(EpochRow, row, f"line of epoch {row['epoch']}")
        for row in folder.cut_metrics(state["epoch"])
    ]
    return rows, within


def _result(
    session: Session, folder: RunFolder, rows: list[EpochRow], last_seconds: float
) -> Result:
    """The result by the rows of all epochs, those before an interruption too."""
    # Later rows of a run replace earlier ones, so what is left is the last epoch of each.
    ends, last = {row.run: row for row in rows}.values(), rows[-1]
    best = best_of(rows) if session.config.keep_best else None
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
        # The last checkpoint comes after the last row.
        checkpoint_seconds=sum(row.checkpoint_seconds for row in rows) + last_seconds,
        cycles=tuple(
            CycleResult(
                row.run,
                row.epoch,
                row.density,
                row.nonzeros,
                row.train_accuracy,
                _tested(row),
                row.validation_accuracy,
                row.average_test_accuracy,
            )
            for row in ends
        ),
        notes=(*session.scheduler.notes, *_zeros(last)),
        validation_accuracy=last.validation_accuracy,
        average_test_accuracy=last.average_test_accuracy,
        provenance=provenance(session.config, session.data.digest),
        best_epoch=best.epoch if best else None,
        best_validation_accuracy=best.validation_accuracy if best else None,
        best_test_accuracy=_tested_best(session, folder) if best else None,
    )


def _tested_best(session: Session, folder: RunFolder) -> float:
    """The test accuracy of the weights that the validation chose."""
    return evaluate(session, best_model(session, folder), session.test_batches())


def _zeros(row: EpochRow) -> list[str]:
    """A note when files hold fewer non-zeros than the masks keep, as with weights that training drove to zero."""
    if not row.kept_zeros:
        return []
    return [
        f"{row.kept_zeros} of the {row.nonzeros} weights that the masks keep are exactly zero, so that files hold "
        f"{row.nonzeros - row.kept_zeros} non-zeros"
    ]


def _tested(row: EpochRow) -> float:
    """The test accuracy of the last epoch of a run, all of which are evaluated."""
    assert row.test_accuracy is not None
    return row.test_accuracy
