"""One epoch of a training: steps, scheduler, evaluation, and the line of metrics.jsonl that comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_fx.checkpoints.run_files import cycle_file, epoch_file
from sparsify_fx.errors import TrainingError
from sparsify_fx.randomness import seed_of
from sparsify_fx.train.log import Log
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.saving import Saver
from sparsify_fx.train.session import Session
from sparsify_fx.transfer import masked_state_dict


@dataclass(frozen=True)
class EpochRow:
    """One line of metrics.jsonl. `epoch` counts from 1 over all cycles, `run` from 0.

    `loss` and `train_accuracy` are means over the epoch while it trains (augmented, in training mode);
    `test_accuracy` is None in epochs without an evaluation; `lr` is that of the epoch's last step, and so is
    `strength`, that of an adaptive penalty (0 for other methods); `kept_zeros` are the kept weights that are zero;
    `checkpoint_seconds` were spent on checkpoints since the line before, and are not in `seconds`.
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


def train_epoch(
    session: Session,
    train_model: nn.Module,
    epoch: int,
    log: Log,
    folder: RunFolder,
    saver: Saver,
) -> EpochRow:
    """One epoch, or what is left of it. Its last scheduler step may prune and rewind, so evaluation and snapshots come
    before that one.
    """
    scheduler = session.scheduler
    within = saver.begin(derived_seed(session.config.seed, epoch))
    session.model.train()
    batches = session.training_batches(epoch, within.step)
    for step, (x, y) in enumerate(batches, start=within.step + 1):
        with session.autocast():
            outputs = train_model(x)
        loss = session.loss(outputs, y) + scheduler.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        session.optimizer.step()
        session.optimizer.zero_grad()
        # Totals are on the device and read once per epoch, for each reading waits until the GPU is done.
        within.totals += counts(loss, outputs, y)
        within.step = step

        # The last scheduler step of a run prunes: what is reported and kept is the network before that.
        if step == scheduler.steps_per_epoch:
            row = _end_of_epoch(session, epoch, within.totals, saver)
            # Penalties with an adaptive strength compare it with the epoch before, in the step that follows.
            scheduler.observe(accuracy=row.train_accuracy)
            keep_state(session, folder, epoch)
        # Scores of regrown weights are gradients, and RigL takes those of the batch of its step, not of a fixed one.
        if scheduler.needs_batch:
            scheduler.score_on(x, y)
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
    loss, correct, samples = totals.tolist()
    # Before the line and the checkpoint are written: what the folder keeps is from before the loss diverged.
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch} (run {scheduler.run}): the training diverged; lower optimizer.lr "
            "or lengthen learning_rate.warmup. The run folder keeps the last checkpoint"
        )
    # The end of every run is evaluated whatever eval_every says, since the result lists the accuracy of each.
    due = epoch % session.config.eval_every == 0 or scheduler.ends_run
    tested = evaluate(session) if due else None
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
    # Shifted since the first version; without the shift every run with dropout would train to other bits.
    return seed_of(f"{seed}/{epoch}") >> 1
