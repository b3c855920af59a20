"""Averages of weights keep masks and exact zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.programs.owners import programs
from tests.conftest import small_net, train_step

AVERAGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "swa": AveragedModel,
    "ema": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "ema of buffers": lambda model: AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True
    ),
    "timm": lambda model: ModelEmaV3(model, decay=0.9),
    "timm one by one": lambda model: ModelEmaV3(model, decay=0.9, foreach=False),
    "timm without buffers": lambda model: ModelEmaV3(
        model, decay=0.9, exclude_buffers=True
    ),
}


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("method", ["lrr+signin", "imp", "gmp"])
def test_averages_keep_masks_and_zeros(name: str, method: str) -> None:
    """Without care an average of masks would be no mask, and weights pruned later would stay in the average."""
    model = sparsify_fx.apply(small_net(), method, sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=2)
    average = AVERAGES[name](model)
    while not scheduler.finished:
        train_step(model, optimizer, scheduler.step_count)
        scheduler.step()
        average.update(model) if isinstance(
            average, ModelEmaV3
        ) else average.update_parameters(model)
        average.eval()
        for key, program in programs(average.module).items():
            mask = programs(model)[key].current_mask()
            assert torch.equal(program.current_mask(), mask)
            assert (program()[mask == 0] == 0).all()
            assert (program()[mask == 1] != 0).any()
    merged = sparsify_fx.merge(average.module)
    assert (
        sum(
            int((weight != 0).sum()) for weight in (merged[i].weight for i in (0, 3, 7))
        )
        <= scheduler.nonzeros()
    )


def test_averaged_masks_are_refused_where_torch_spoils_them() -> None:
    """AveragedModel(use_buffers=True) subtracts uint8 tensors: 0 - 1 is 255, and weights come out 128 times larger."""
    # In full storage, where an average of other masks has tensors of the same shapes.
    model = sparsify_fx.apply(small_net(), "random", sparsity=0.0, storage="full")
    average = AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    sparsify_fx.apply(sparsify_fx.merge(model), "random", sparsity=0.5, storage="full")
    average.update_parameters(model)
    with pytest.raises(
        LayerError,
        match=r"values other than 0 and 1.*use AveragedModel\(model, use_buffers=False\)",
    ):
        average.eval()
