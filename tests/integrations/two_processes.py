"""One of two processes that trains in Lightning, in Transformers and with Accelerate, and writes what it has seen.

Started with the variables that torchrun sets. Each process makes weights of its own: the first one's count.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from sparsify_fx.distributed.tensor_hash import digest
from sparsify_fx.integrations.accelerate import Sparsify
from sparsify_fx.integrations.lightning import SparsifyCallback
from sparsify_fx.integrations.transformers import SparsifyCallback as ForTransformers
from sparsify_fx.scheduler.scheduler import Scheduler
from tests.conftest import small_net
from tests.integrations.conftest import dataset, sgd

# Where the doctests are collected it is no process of two.
RANK = int(os.environ.get("RANK", "0"))
METHOD: dict[str, Any] = {"method": "l1", "sparsity": 0.9}
EPOCHS = 5


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_net(seed=RANK)

    def training_step(self, images: Any, index: int) -> Tensor:
        return F.cross_entropy(self.net(images[0]), images[1])

    def configure_optimizers(self) -> Any:
        return sgd(self)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_net(seed=RANK)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def seen(scheduler: Scheduler | None, net: nn.Module) -> dict[str, Any]:
    assert scheduler is not None
    return {
        "finished": scheduler.finished,
        "steps": scheduler.steps,
        "nonzeros": scheduler.nonzeros(),
        "weights": digest(dict(net.named_parameters())),
    }


def with_lightning() -> dict[str, Any]:
    callback = SparsifyCallback(**METHOD)
    options: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", strategy="ddp", devices=2, callbacks=[callback], **options
    )  # fmt: skip
    model = Classifier()
    trainer.fit(model, DataLoader(dataset(6), batch_size=8))
    return seen(callback.scheduler, model.net)


def with_transformers() -> dict[str, Any]:
    callback, model = ForTransformers(**METHOD), Net()
    data = [{"inputs": x, "labels": y} for x, y in dataset(6)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=8, use_cpu=True, report_to="none",
            disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    return seen(callback.scheduler, model.net)


def with_accelerate() -> dict[str, Any]:
    accelerator, net = Accelerator(cpu=True), small_net(seed=RANK)
    sparse = Sparsify(net, **METHOD)
    loader = DataLoader(dataset(6), batch_size=8)
    model, optimizer, loader = accelerator.prepare(net, sgd(net), loader)
    sparse.follow(accelerator, optimizer, loader, epochs=EPOCHS)
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            accelerator.backward(F.cross_entropy(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
    return seen(sparse.scheduler, net)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    cases = [with_accelerate, with_transformers, with_lightning]
    found = {case.__name__: case() for case in cases}
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()
