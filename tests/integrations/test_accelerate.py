"""Hugging Face's accelerate: `prepare`, `register_for_checkpointing`, `save_state` and `load_state`."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import nn
from torch.utils.data import DataLoader

import sparsify_fx
from sparsify_fx.errors import LearningRateWarning, StepCountWarning
from tests.conftest import batch
from tests.integrations.conftest import (
    BATCH,
    EPOCHS,
    METHODS,
    STEPS,
    dataset,
    differences,
    loss_of,
    prepared,
    sgd,
)

pytestmark = pytest.mark.slow


@dataclass
class Run:
    """What a script builds."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    loader: Any
    scheduler: sparsify_fx.Scheduler


def script(method: str, accumulation: int = 1, prepare_last: bool = False) -> Run:
    """The first half of a script: everything is built, nothing loaded.

    `prepare_last`: the Scheduler is built on what the user made, and `prepare` comes after it.
    """
    set_seed(5)
    data = DataLoaderConfiguration(
        use_seedable_sampler=True
    )  # by default the order of the data is lost
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=accumulation, dataloader_config=data
    )
    model = prepared(method)
    optimizer = sgd(model)
    loader = DataLoader(dataset(STEPS * accumulation), batch_size=BATCH, shuffle=True)
    if not prepare_last:
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps = len(loader) // accumulation
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=steps
    )
    if prepare_last:
        model, optimizer, loader, scheduler = accelerator.prepare(
            model, optimizer, loader, scheduler
        )
    accelerator.register_for_checkpointing(scheduler)
    return Run(accelerator, model, optimizer, loader, scheduler)


def train(run: Run, start: int, batches: int = 0, stop: int | None = None) -> None:
    """From epoch `start`, after `batches` of its batches, on; until as many optimizer steps as `stop` are made."""
    for epoch in range(start, run.scheduler.epochs):
        run.loader.set_epoch(epoch)
        loader = run.accelerator.skip_first_batches(
            run.loader, batches if epoch == start else 0
        )
        for inputs, targets in loader:
            with run.accelerator.accumulate(run.model):
                run.accelerator.backward(
                    loss_of(run.model, inputs, targets, run.scheduler)
                )
                run.optimizer.step()
                run.optimizer.zero_grad()
            if run.accelerator.sync_gradients:
                run.scheduler.step()
            if run.scheduler.step_count == stop:
                return


def everything(run: Run) -> dict[str, Any]:
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "rates": [group["lr"] for group in run.optimizer.param_groups],
    }


@pytest.mark.cross_section(
    "signin-2-prepared last",
    "gmp-1-prepared first",
    "lrr-1-prepared last",
    "rigl-2-prepared first",
)
@pytest.mark.parametrize(
    "prepare_last", [False, True], ids=["prepared first", "prepared last"]
)
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_goes_on_is_the_one_that_was_never_stopped(
    method: str,
    accumulation: int,
    prepare_last: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "accelerate")
    whole = script(method, accumulation, prepare_last)
    train(whole, 0)
    assert whole.scheduler.finished
    assert whole.scheduler.optimizer is whole.optimizer.optimizer, (
        "the one within the wrapper"
    )
    for stop in (
        STEPS,
        STEPS + 1,
        whole.scheduler.steps - 1,
    ):  # at the end of an epoch, and amid one
        first = script(method, accumulation, prepare_last)
        train(first, 0, stop=stop)
        first.accelerator.save_state(str(tmp_path / f"{stop}"))
        second = script(method, accumulation, prepare_last)
        torch.manual_seed(77)
        second.accelerator.load_state(str(tmp_path / f"{stop}"))
        assert differences(everything(second), everything(first)) == []
        train(second, stop // STEPS, stop % STEPS * accumulation)
        assert differences(everything(second), everything(whole)) == []
    assert caplog.messages == []


def test_calling_the_scheduler_after_every_batch_is_noticed() -> None:
    run = script("gmp", accumulation=4)

    def wrong() -> None:
        for inputs, targets in run.loader:
            with run.accelerator.accumulate(run.model):
                run.accelerator.backward(
                    loss_of(run.model, inputs, targets, run.scheduler)
                )
                run.optimizer.step()
                run.optimizer.zero_grad()
            run.scheduler.step()

    with pytest.warns(
        StepCountWarning, match="the optimizer made 2 steps in the last 8 calls"
    ) as told:
        wrong()
    assert len(told) == 1


def test_a_schedule_of_ones_own_beside_it_is_left_alone_or_told() -> None:
    for rate, warned in ((None, 0), ("constant", 1)):
        accelerator = Accelerator(cpu=True)
        model = prepared("gmp")
        optimizer = sgd(model)
        own = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS)
        model, optimizer, own = accelerator.prepare(model, optimizer, own)
        given = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "learning_rate": rate}
        scheduler = sparsify_fx.Scheduler(model, optimizer, **given)
        rates = []
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", LearningRateWarning)
            for inputs, targets in [(batch(i)) for i in range(EPOCHS * STEPS)]:
                accelerator.backward(loss_of(model, inputs, targets, scheduler))
                optimizer.step()
                optimizer.zero_grad()
                own.step()
                scheduler.step()
                rates.append(optimizer.param_groups[0]["lr"])
        assert len(told) == warned
        assert len(set(rates)) == (EPOCHS * STEPS if rate is None else 2)
