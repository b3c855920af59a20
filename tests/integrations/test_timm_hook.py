"""`sparsify_fx.integrations.timm` in the loop of timm's train.py, with tasks, savers and schedulers of the wheel."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, resume_task_checkpoint
from timm.utils import CheckpointSaver, NativeScaler
from torch import nn
from torch.utils.data import DataLoader

import sparsify_fx
from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.integrations.timm import Sparsify
from tests.conftest import small_net
from tests.integrations.conftest import BATCH, dataset, differences

EPOCHS, UPDATES, WEIGHTS = 6, 3, 792
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {"sparsity": 0.9},
    "l1": {"sparsity": 0.9},
    "lrr": {"sparsity": 0.36},
}


class Run:
    """What train.py builds, in its order; the lines of this package are marked."""

    def __init__(self, method: str, folder: Path, resume: str = "", **options: Any):
        torch.manual_seed(0)
        self.loader = list(DataLoader(dataset(5), batch_size=BATCH))
        self.task = ClassificationTask(
            small_net(), criterion=nn.CrossEntropyLoss(), verbose=False
        )
        model = self.task.get_trainable_module()
        self.sparse = Sparsify(model, method, **METHODS[method])  # <-
        self.optimizer = create_optimizer_v2(model, opt="momentum", lr=0.1)
        rate = "cosine-warmup" if method == "lrr" else None
        self.loss_scaler = self.sparse.scaler(
            self.optimizer,
            options.get("loss_scaler"),
            epochs=EPOCHS,
            updates_per_epoch=UPDATES,
            learning_rate=rate,
        )  # <-
        self.start = 0
        if resume:
            self.start = resume_task_checkpoint(
                self.task,
                resume,
                optimizer=self.optimizer,
                loss_scaler=self.loss_scaler,
                log_info=False,
            )
        self.task.setup_ema(decay=0.5)
        self.saver = CheckpointSaver(
            model,
            self.optimizer,
            args=argparse.Namespace(model="small"),
            amp_scaler=self.loss_scaler,
            checkpoint_dir=str(folder),
            recovery_dir=str(folder),
            task=self.task,
        )
        self.lr_scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="none" if method == "lrr" else "cosine",
            num_epochs=EPOCHS,
            updates_per_epoch=UPDATES,
        )
        if self.lr_scheduler is not None and self.start:
            self.lr_scheduler.step(self.start)

    def train(self) -> None:
        """`train_one_epoch` for every epoch, two batches to a step."""
        updates = self.start * UPDATES
        for epoch in range(self.start, EPOCHS):
            self.task.get_trainable_module().train()
            self.optimizer.zero_grad()
            for index, (inputs, targets) in enumerate(self.loader):
                need_update = index % 2 == 1 or index == len(self.loader) - 1
                loss = self.task(inputs, targets)["loss"] / (1 if index == 4 else 2)
                self.loss_scaler(
                    loss,
                    self.optimizer,
                    clip_grad=1.0,
                    clip_mode="norm",
                    parameters=self.task.get_clip_parameters(exclude_head=False),
                    create_graph=False,
                    need_update=need_update,
                )
                if not need_update:
                    continue
                updates += 1
                self.optimizer.zero_grad()
                self.task.update_ema(step=updates)
                if self.lr_scheduler is not None:
                    self.lr_scheduler.step_update(num_updates=updates, metric=0.0)
            self.saver.save_checkpoint(epoch, metric=None)
            if self.lr_scheduler is not None:
                self.lr_scheduler.step(epoch + 1, None)

    def everything(self) -> dict[str, Any]:
        return {
            "model": self.task.get_trainable_module().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.loss_scaler.state_dict(),
        }


@pytest.mark.parametrize(
    "method",
    ["l1", *(pytest.param(m, marks=pytest.mark.sweep) for m in ("gmp", "lrr"))],
)
def test_a_training_is_exact_and_goes_on_to_the_same_bits(
    method: str, tmp_path: Path
) -> None:
    whole = Run(method, tmp_path)
    whole.train()
    scheduler = whole.sparse.scheduler
    assert scheduler is not None
    assert scheduler.finished
    kept = round((1 - METHODS[method]["sparsity"]) * WEIGHTS)
    assert scheduler.nonzeros() == kept
    again = Run(method, tmp_path / "again", str(tmp_path / "checkpoint-2.pth.tar"))
    (tmp_path / "again").mkdir()
    assert again.start == 3
    again.train()
    assert differences(again.everything(), whole.everything()) == []
    # The average of the weights has the masks of the model.
    average = whole.task.get_eval_model(ema=True)
    sparsify_fx.merge(average)
    weights = [p for p in average.parameters() if p.dim() > 1]
    assert sum(int(w.count_nonzero()) for w in weights) == kept
    whole.sparse.merge()
    assert set(whole.task.get_eval_model().state_dict()) == set(
        small_net().state_dict()
    )


@pytest.mark.sweep
def test_a_scaler_of_timm_within(tmp_path: Path) -> None:
    """Scaled by 65536, the penalty too, and no step overflows: the same training but for rounding."""
    plain = Run("l1", tmp_path)
    scaled = Run("l1", tmp_path, loss_scaler=NativeScaler(device="cpu"))
    plain.train()
    scaled.train()
    assert scaled.sparse.scheduler is not None
    assert scaled.sparse.scheduler.finished
    found = dict(scaled.task.get_trainable_module().named_parameters())
    for name, parameter in plain.task.get_trainable_module().named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-3, atol=1e-5)
    assert scaled.loss_scaler.state_dict()["scaler"]["scale"] == 65536.0


def test_what_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    model = nn.Linear(8, 8)
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    sparse = Sparsify(model, "signin")
    with pytest.raises(MethodError, match=r"prepared by sparsify_fx\.apply already"):
        Sparsify(model, "signin")
    with pytest.raises(SchedulerError, match="no optimizer trains the rewritten"):
        sparse.scaler(early, epochs=3, updates_per_epoch=3)
    model = nn.Linear(8, 8)
    sparse = Sparsify(model, "lrr", sparsity=0.36)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SchedulerError, match="brings the learning rate back"):
        sparse.scaler(optimizer, epochs=9, updates_per_epoch=3)
