"""IMP of LeNet-5 on real digits at reduced size."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure

from sparsify_fx.lab.imp_lenet5 import Size, accuracies, load_digits, measure

pytestmark = pytest.mark.slow

SMALL = Size(samples=(200, 1000), seeds=1, prunings=2, steps=60)


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
    findings = measure(SMALL, 0)
    assert [len(row) for row in findings.grids[0].rows] == [3, 3, 3]
    by_claim = {check.claim: check for check in findings.checks}
    assert by_claim["more images, higher accuracy of the dense net"].holds
    figure = Figure()
    findings.figures["imp-lenet5"](figure)
    assert len(figure.axes[0].lines) == 2
