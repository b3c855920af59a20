"""One epoch of a training: steps, scheduler, evaluation, and the line of metrics.jsonl that comes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_fx.checkpoints.run_files import cycle_file, epoch_file
from sparsify_fx.errors import TrainingError
from sparsify_fx.randomness import seed_of
from sparsify_fx.train.best import keep_if_best
from sparsify_fx.train.log import Log
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.saving import Saver
from sparsify_fx.train.session import Session
from sparsify_fx.train.steps import Steps, counts
from sparsify_fx.transfer import masked_state_dict


@dataclass(frozen=True)
class EpochRow:
    """One line of metrics.jsonl. `epoch` counts from 1 over all cycles, `run` from 0.

    `loss` and `train_accuracy` are means over the epoch while it trains (augmented, in training mode);
    `test_accuracy` is None in epochs without an evaluation; `lr` is that of the epoch's last step, and so is
    `strength`, that of an adaptive penalty (0 for other methods); `kept_zeros` are the kept weights that are zero;
    `checkpoint_seconds` were spent on checkpoints since the line before, and are not in `seconds`. With a validation
    set its `validation_accuracy` is in the place of `test_accuracy`, which only the last epoch of a run has;
    `average_...` are those of the average of the weights, where there is one.
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
    checkpoint_seconds: float = 0.0
    validation_accuracy: float | None = None
    average_validation_accuracy: float | None = None
    average_test_accuracy: float | None = None


def train_epoch(
    session: Session,
    make_step: Steps,
    epoch: int,
    log: Log,
    folder: RunFolder,
    saver: Saver,
    rows: Sequence[EpochRow] = (),
) -> EpochRow:
    """One epoch, or what is left of it; `rows` are those before.

    Its last scheduler step may prune and rewind, so evaluation and snapshots come before that one.
    """
    scheduler = session.scheduler
    within = saver.begin(derived_seed(session.config.seed, epoch))
    session.model.train()
    batches = session.training_batches(epoch, within.step)
    for step, (x, y) in enumerate(batches, start=within.step + 1):
        # Totals are on the device and read once per epoch, for each reading waits until the GPU is done.
        within.totals += make_step(x, y, epoch, step)
        within.step = step

        # The last scheduler step of a run prunes: what is reported and kept is the network before that.
        if step == scheduler.steps_per_epoch:
            row = _end_of_epoch(session, epoch, within.totals, saver)
            # Penalties with an adaptive strength compare it with the epoch before, in the step that follows.
            scheduler.observe(accuracy=row.train_accuracy)
            keep_state(session, folder, epoch)
            keep_if_best(session, folder, rows, row)
        with make_step.score(x, y):
            scheduler.step()
        log.advance()
        if step < scheduler.steps_per_epoch:
            saver.after_step(epoch, within)
    return row


def keep_state(session: Session, folder: RunFolder, epoch: int) -> None:
    """Weights and masks after an epoch, where the configuration asks for them; 0 is the start."""
    # An epoch may end a run and be asked for by its number too: both files are promised, so both are written.
    names = [epoch_file(epoch)] if epoch in session.config.snapshots_at else []
    if session.config.save_cycles and epoch > 0 and session.scheduler.ends_run:
        names.append(cycle_file(session.scheduler.run))
    for name in names:
        folder.save_state(name, masked_state_dict(session.model))


def _end_of_epoch(
    session: Session, epoch: int, totals: Tensor, saver: Saver
) -> EpochRow:
    """The row of an epoch whose optimizer steps are done; TrainingError when its loss is not finite."""
    scheduler = session.scheduler
    loss, correct, samples = session.processes.summed(totals).tolist()
    # Before the line and the checkpoint are written: what the folder keeps is from before the loss diverged.
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch} (run {scheduler.run}): the training diverged; lower optimizer.lr "
            "or lengthen learning_rate.warmup. The run folder keeps the last checkpoint"
        )
    # The end of every run is evaluated whatever eval_every says, since the result lists the accuracy of each.
    due = epoch % session.config.eval_every == 0 or scheduler.ends_run
    validated, tested = _accuracies(session, session.model, due)
    average = session.average
    of_average = _accuracies(session, average.model, due) if average else (None, None)
    return EpochRow(
        epoch=epoch,
        run=scheduler.run,
        loss=loss / samples,
        train_accuracy=correct / samples,
        test_accuracy=tested,
        density=scheduler.density(),
        nonzeros=scheduler.nonzeros(),
        lr=float(session.optimizer.param_groups[0]["lr"]),
        seconds=saver.elapsed(),
        strength=scheduler.strength,
        kept_zeros=scheduler.kept_zeros(),
        checkpoint_seconds=saver.take_seconds(),
        validation_accuracy=validated,
        average_validation_accuracy=of_average[0],
        average_test_accuracy=of_average[1],
    )


def _accuracies(
    session: Session, model: nn.Module, due: bool
) -> tuple[float | None, float | None]:
    """(on the validation set, on the test set), each None where it is not asked for."""
    guided = session.data.validation is not None
    # The test is no guide on the way then: it is a result, of the end of each run.
    tests = session.scheduler.ends_run if guided else due
    return (
        evaluate(session, model, session.validation_batches())
        if guided and due
        else None,
        evaluate(session, model, session.test_batches()) if tests else None,
    )


def evaluate(
    session: Session, model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]
) -> float:
    """Accuracy of a model on batches, in [0, 1]; it is in the mode that it was in afterwards.

    The scheduler step that follows may score weights: it must not depend on whether there was an evaluation.

    Runs the uncompiled model, so that training keeps its one graph.
    """
    training = model.training
    model.eval()
    totals = torch.zeros(3, device=session.config.device)
    with torch.no_grad():
        for x, y in batches:
            with session.autocast():
                outputs = model(x)
            totals += counts(session.loss(outputs, y), outputs, y)
    model.train(training)
    _, correct, samples = session.processes.summed(totals).tolist()
    return float(correct / samples)


def derived_seed(seed: int, epoch: int) -> int:
    """The seed of dropout and its like in one epoch: it does not depend on where a run was resumed."""
    # Shifted since the first version; without the shift every run with dropout would train to other bits.
    return seed_of(f"{seed}/{epoch}") >> 1
