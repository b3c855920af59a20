"""The checks of whole channels: what passes, what rounding may do, and what fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.coverage.bench import Bench, bench_of
from sparsify_fx.coverage.build import Trial, seed_everything
from sparsify_fx.coverage.page import introduction, write_page
from sparsify_fx.coverage.results import FAILED, PASSED, ModelResult, Outcome
from sparsify_fx.coverage.structured_check import (
    STRUCTURED,
    _difference_in_float64,
    check_shrink,
    check_step,
)
from sparsify_fx.errors import ConfigError, CoverageError
from tests.conftest import small_net

pytestmark = pytest.mark.slow


class Changed(nn.Module):
    """`small_net`, and what `change` makes of its outputs."""

    def __init__(self, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = small_net(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net, self.net(x))


def bench(folder: Path, change: Callable[[nn.Module, Tensor], Tensor]) -> Bench:
    def seeded() -> nn.Module:
        seed_everything(0)
        return Changed(change)

    inputs = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)
    return bench_of(Trial(seeded, inputs, inputs, "small"), folder)


def chaotic(net: nn.Module, outputs: Tensor) -> Tensor:
    # The logistic map doubles an error in each step: 1e-8 becomes 1e-2, and what float64 rounds stays below 1e-9.
    x = torch.sigmoid(outputs)
    for _ in range(20):
        x = 4 * x * (1 - x)
    return x


def in_float32_alone(net: nn.Module, outputs: Tensor) -> Tensor:
    if outputs.dtype != torch.float32:
        raise RuntimeError("expected scalar type Float")
    return outputs


def by_width(net: nn.Module, outputs: Tensor) -> Tensor:
    return outputs * sum(p.numel() for p in net.parameters())


def test_a_model_passes_all_of_them(tmp_path: Path) -> None:
    usual = bench(tmp_path, lambda net, outputs: outputs)
    said = {name: check(usual) for name, check in STRUCTURED.items()}
    assert said["multiply-adds"].startswith("0.")
    assert "in float64" not in said["shrink"]


def test_rounding_that_grows_is_judged_in_float64(tmp_path: Path) -> None:
    assert "in float64 by" in check_shrink(bench(tmp_path, chaotic))


def test_a_model_that_has_no_float64_is_not_judged_in_it(tmp_path: Path) -> None:
    assert _difference_in_float64(bench(tmp_path, in_float32_alone), 1000) is None


def test_other_outputs_fail_and_the_later_checks_with_them(tmp_path: Path) -> None:
    wrong = bench(tmp_path, by_width)
    with pytest.raises(CoverageError) as first:
        check_shrink(wrong)
    with pytest.raises(CoverageError) as later:
        check_step(wrong)
    assert later.value is first.value


def found(**checks: Outcome) -> ModelResult:
    named = {name.replace("_", "-"): outcome for name, outcome in checks.items()}
    return ModelResult("timm", "starnet_s050", "nets", 500_000, "2x3", 0, named)


def test_their_page_gives_what_is_left_and_each_reason_once(tmp_path: Path) -> None:
    smaller = found(
        shrink=Outcome(PASSED, "0.620 of the parameters"),
        multiply_adds=Outcome(FAILED, "0.700 of the multiply-adds"),
    )
    write_page(tmp_path / "page.md", [smaller])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.startswith(introduction(STRUCTURED))
    assert "coverage --structured" in page
    assert "| starnet_s050 | nets | 0.5 M | 2x3 | 0.620 | **no**, 0.700 |" in page

    failed = found(shrink=Outcome(FAILED, "odd"), multiply_adds=Outcome(FAILED, "odd"))
    write_page(tmp_path / "page.md", [failed])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| starnet_s050 | shrink, multiply-adds | `odd` |" in page


def test_a_page_is_of_one_kind(tmp_path: Path) -> None:
    kinds = [found(shrink=Outcome(PASSED)), found(onnx=Outcome(PASSED))]
    with pytest.raises(ConfigError, match="a page of each kind"):
        write_page(tmp_path / "page.md", kinds)
    assert not (tmp_path / "page.md").exists()
