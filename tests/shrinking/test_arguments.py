"""What `shrink` and its map are given: the wrong things are refused in words, and nothing is done without a word."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sparsify_fx.errors import LayerError, SchedulerError
from sparsify_fx.shrinking import shrink

INPUTS = torch.ones(2, 5)


def net() -> nn.Sequential:
    found = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    found[2].weight.data[:, 4:] = 0  # type: ignore[union-attr, index]
    return found


def test_what_is_no_optimizer_or_scheduler_of_ours_is_refused() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(LayerError, match="optimizer= holds a str"):
        shrink(model, INPUTS, "adam")  # type: ignore[arg-type]
    with pytest.raises(LayerError, match="optimizer= holds a int"):
        shrink(model, INPUTS, [optimizer, 3])  # type: ignore[list-item]
    with pytest.raises(SchedulerError, match="scheduler= is a StepLR"):
        shrink(model, INPUTS, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))  # type: ignore[arg-type]
    assert model[0].out_features == 8


def test_the_map_is_for_the_model_that_was_shrunk() -> None:
    model = net()
    first = shrink(model, INPUTS, None)
    model[2].weight.data[:, 2:] = 0  # type: ignore[union-attr, index]
    second = shrink(model, INPUTS)
    # The last shrink is undone first, and each once.
    for other in (model, net(), nn.Linear(5, 8)):
        with pytest.raises(LayerError, match="undo the last shrink first"):
            first.undo(other)
        with pytest.raises(LayerError, match="undo the last shrink first"):
            first.full_state_dict(other)
    assert model[0].out_features == 2
    second.undo(model)
    first.undo(model)
    assert model[0].out_features == 8
    with pytest.raises(LayerError, match="undo the last shrink first"):
        first.undo(model)


def test_a_model_that_is_shrunk_in_inference_mode_trains() -> None:
    model = net()
    with torch.inference_mode():
        assert shrink(model, INPUTS).changed
    model(INPUTS).sum().backward()


def test_masks_of_torch_that_keep_all_channels_are_told() -> None:
    model = net()
    prune.ln_structured(model[2], "weight", 0.5, n=2, dim=1)  # type: ignore[no-untyped-call]
    shrunk = shrink(model, INPUTS)
    assert not shrunk.changed
    assert "aten.linear.default" in shrunk.notes[0]
    prune.remove(model[2], "weight")  # type: ignore[no-untyped-call]
    assert shrink(model, INPUTS).changed
