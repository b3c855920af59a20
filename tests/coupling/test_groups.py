"""Channels that must live or die together, on nets of one coupling each."""

from __future__ import annotations

import logging

import pytest
import torch

from sparsify_fx.coupling.groups import Coupling, coupled_groups
from tests.coupling.nets import Helped, Untraceable, made


def found(name: str) -> Coupling:
    return coupled_groups(*made(name))


def test_a_sum_joins_what_it_adds() -> None:
    axes = found("residual").axes
    stem = axes["stem.weight"][0].tolist()
    assert len(set(stem)) == 8
    for name in ("outer.weight", "outer.bias", "norm.weight", "norm.running_var"):
        assert axes[name][0].tolist() == stem
    assert axes["inner.weight"][1].tolist() == stem


def test_flattened_channels_are_read_by_a_run_of_columns() -> None:
    axes = found("residual").axes
    stem = axes["stem.weight"][0].tolist()
    assert axes["head.weight"][1].tolist() == [c for c in stem for _ in range(16)]
    assert 0 not in axes["head.weight"]  # outputs stay


def test_a_concatenation_puts_classes_in_a_row() -> None:
    axes = found("concatenation").axes
    rows = [*axes["a.weight"][0], *axes["b.weight"][0]]
    assert axes["head.weight"][1].tolist() == rows
    assert len(set(rows)) == 10


def test_a_group_of_a_convolution_is_one_class() -> None:
    axes = found("depthwise").axes
    grouped = axes["grouped.weight"][0].tolist()
    assert len(set(grouped)) == 4
    assert axes["norm.weight"][0].tolist() == grouped
    assert axes["depth.weight"][0].tolist() == axes["expand.weight"][0].tolist()
    assert len(set(axes["expand.weight"][0])) == 4


def test_a_head_is_one_class_in_q_k_v_and_the_output() -> None:
    axes = found("attention").axes
    rows = axes["qkv.weight"][0].reshape(3, 4, 6)
    assert (rows == rows[:1, :, :1]).all()
    assert len(set(rows[0, :, 0])) == 4
    assert axes["out.weight"][1].tolist() == rows[0].ravel().tolist()
    # What a norm over all channels reads stays.
    assert "norm.weight" not in axes
    assert 0 not in axes["out.weight"]


def test_gates_are_joined_with_what_they_gate() -> None:
    axes = found("gated").axes
    assert axes["gate.weight"][0].tolist() == axes["up.bias"][0].tolist()
    assert axes["gate.weight"][0].tolist() == axes["down.weight"][1].tolist()
    halves = axes["both.weight"][0].reshape(2, 7)
    assert halves[0].tolist() == halves[1].tolist() == axes["last.weight"][1].tolist()


def test_layers_that_share_a_weight_are_sliced_alike() -> None:
    axes = found("tied").axes
    name = "middle.weight" if "middle.weight" in axes else "again.weight"
    assert axes[name][0].tolist() == axes["last.weight"][1].tolist()
    assert axes[name][0].tolist() == axes[name][1].tolist()
    assert axes[name][1].tolist() == axes["first.weight"][0].tolist()


def test_what_passes_through_an_unknown_operator_stays() -> None:
    coupling = found("unknown")
    assert "first.weight" not in coupling.axes
    assert set(coupling.axes["second.weight"]) == {0}
    assert coupling.unknown == {"aten.sort.default": 1}


def test_a_model_that_cannot_be_traced_gets_groups_within_layers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        coupling = coupled_groups(Untraceable(), torch.randn(2, 5))
    assert not coupling.traced
    assert "cannot be traced" in coupling.note
    assert "cannot be traced" in caplog.text
    # Not the rows of the last layer, which are the outputs.
    assert len(coupling.removable()) == 7


def test_the_mode_of_every_module_stays() -> None:
    net, inputs = made("residual")
    net.train()
    net.norm.eval()  # type: ignore[operator, union-attr]
    coupled_groups(net, inputs)
    assert net.training
    assert not net.norm.training  # type: ignore[union-attr]


def test_heads_stay_whole_where_they_are_normalized() -> None:
    axes = found("normed").axes
    heads = axes["q.weight"][0].reshape(4, 6)
    assert (heads == heads[:, :1]).all()
    assert len(set(heads[:, 0])) == 4
    for name, axis in (("k.weight", 0), ("v.weight", 0), ("out.weight", 1)):
        assert axes[name][axis].tolist() == heads.reshape(-1).tolist()


def test_channels_pass_layers_over_tokens() -> None:
    coupling = found("tokens")
    assert len(coupling.removable()) == 8
    assert "mix.weight" not in coupling.axes


def test_parts_are_followed_where_the_whole_cannot_be() -> None:
    coupling = found("parts")
    assert coupling.traced
    assert "body, head" in coupling.note
    assert len(coupling.removable()) == 9 + 8
    assert set(coupling.axes["body.2.weight"]) == {1}


def test_what_only_training_uses_is_followed_too() -> None:
    coupling = coupled_groups(Helped(), torch.randn(2, 5))
    axes = coupling.axes
    assert axes["helper.weight"][1].tolist() == axes["first.weight"][0].tolist()
