"""IMP of LeNet-5 on real digits at reduced size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy

from sparsify_fx.api import apply
from sparsify_fx.lab.imp_lenet5 import (
    CODE,
    Protocol,
    Size,
    accuracies,
    load_digits,
    measure,
)
from sparsify_fx.lab.imp_lenet5.protocols import build_net, conv2, freeze_small
from sparsify_fx.programs.owners import programs

pytestmark = pytest.mark.slow

SMALL = Size(samples=(200, 1000), seeds=1, prunings=2, steps=60, codes=())


def code(**changes: Any) -> Protocol:
    return replace(CODE, net="lenet5", epochs=2, **changes)


def test_a_run_prunes_a_fifth_each_cycle_learns_and_repeats() -> None:
    digits = load_digits("mnist5k")
    assert len(digits.images) == len(digits.labels) == 4000
    assert len(digits.test_labels) == 1000
    some = digits.some(500, torch.Generator().manual_seed(0))
    densities, found = accuracies(SMALL, some, 0)
    assert densities == pytest.approx([1, 0.8, 0.64], abs=1e-4)
    assert min(found) > 0.6
    assert accuracies(SMALL, some, 0) == (densities, found)


def test_the_findings_are_told_and_drawn() -> None:
    size = replace(
        SMALL, codes=(code(),), code_samples=(120,), code_prunings=1, code_seeds=1
    )
    findings = measure(size, 0)
    assert [len(row) for row in findings.grids[0].rows] == [3, 3, 3]
    assert [len(row) for row in findings.grids[1].rows] == [2, 2]
    by_claim = {check.claim: check for check in findings.checks}
    assert by_claim["ours: more images, higher accuracy of the dense net"].holds
    assert list(findings.figures) == ["imp-lenet5", "imp-lenet5-the-code"]
    figure = Figure()
    findings.figures["imp-lenet5"](figure)
    assert len(figure.axes[0].lines) == 2


def test_the_named_code_prunes_every_layer_alike_and_leaves_negative_weights_alone() -> (
    None
):
    model = build_net(code())
    biases = torch.cat(
        [p.detach() for n, p in model.named_parameters() if n.endswith("bias")]
    )
    assert 0.7 < float(biases.std()) < 1.3
    apply(model, method="imp", sparsity=0.36, allocation="uniform")
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8)
    cross_entropy(model(images), labels).backward()
    freeze_small(model)
    for program in programs(model).values():
        for weight in program.factor_tensors().values():
            assert weight.grad is not None
            assert (weight.grad[weight < 1e-6] == 0).all()
            assert (weight.grad[weight > 1e-6] != 0).any()


def test_the_named_code_takes_the_best_epoch_and_its_freezing_shows() -> None:
    digits = load_digits("mnist5k").some(300, torch.Generator().manual_seed(0))
    size = replace(SMALL, code_prunings=2)
    densities, frozen = accuracies(size, digits, 0, code())
    assert densities == pytest.approx([1, 0.8, 0.64], abs=1e-3)
    _, last = accuracies(size, digits, 0, code(best=False))
    _, mended = accuracies(size, digits, 0, code(positive_only=False))
    # The best of the starts of the epochs: with two, that after the first, never after the last.
    assert frozen != last
    assert frozen != mended


def test_the_net_of_the_named_code_is_conv_2() -> None:
    model = conv2()
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == 3_317_450
