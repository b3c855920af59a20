"""Merged models for other tools, by the real tools; what is not installed is tested by `pytest -m sweep` where it is.

binsparse, coremltools and executorch are not in the extra `test`: docs/handing_on.md has the command.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
from torchao.quantization.granularity import PerGroup

import sparsify_fx
from sparsify_fx import handing_on
from sparsify_fx.errors import ExportError, SparsifyError
from sparsify_fx.programs.selection import select_layers
from tests.conftest import batch, small_net


def sparse_net(sparsity: float = 0.9) -> nn.Sequential:
    model = sparsify_fx.apply(small_net(), "random", sparsity=sparsity)
    return sparsify_fx.merge(model).eval()


def linear_net(**options: Any) -> nn.Sequential:
    """Linear layers, which torchao and 2:4 take."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    given = {"schedule": "at-init", "allocation": "uniform"} | options
    sparsify_fx.apply(model, "magnitude", **given)
    return sparsify_fx.merge(model).eval()


def counts(model: nn.Module) -> tuple[int, int]:
    """(zeros, weights) of the layers that can be sparse."""
    weights = [layer.weight for layer in select_layers(model).values()]
    return (
        sum(int((weight == 0).sum()) for weight in weights),
        sum(weight.numel() for weight in weights),
    )


# ---------------------------------------------------------------------- torchao


@pytest.mark.parametrize(
    "config",
    [
        Int8WeightOnlyConfig(),
        IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),
    ],
    ids=["int8", "int4"],
)
def test_zeros_stay_zeros_when_torchao_quantizes(config: Any) -> None:
    model = linear_net(sparsity=0.9)
    zeros, total = counts(model)
    inputs = torch.randn(4, 64)
    before = model(inputs)
    report = handing_on.quantize(model, config)
    assert (report.zeros, report.total) == (zeros, total)
    assert list(report.layers) == ["0.weight", "2.weight"]
    found = sum(int((model[i].weight.dequantize() == 0).sum()) for i in (0, 2))
    assert found == zeros + report.rounded
    assert float((model(inputs) - before).detach().abs().max()) < 0.05
    assert f"{zeros:,} of {total:,} weights are zero" in str(report)


def test_what_torchao_leaves_alone_is_told() -> None:
    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    sparsify_fx.merge(sparsify_fx.apply(model, "random", sparsity=0.5))
    with pytest.raises(ExportError, match="quantized no layer; torchao takes linear"):
        handing_on.quantize(model, config)


# ---------------------------------------------------------------------- 2:4


def test_layers_with_the_pattern_fit() -> None:
    model = linear_net(allocation="n:m", sparsity=0.5)
    found = handing_on.semi_structured_layers(model)
    assert found.layers == ("0.weight", "2.weight")
    assert not found.reasons


def test_why_a_layer_does_not_fit_is_told() -> None:
    found = handing_on.semi_structured_layers(linear_net(sparsity=0.6))
    assert found.layers == ()
    assert set(found.reasons) == {"0.weight", "2.weight"}
    assert all("of four consecutive" in reason for reason in found.reasons.values())
    conv = handing_on.semi_structured_layers(sparse_net())
    assert conv.reasons["0.weight"] == "a Conv2d; the kernels are for nn.Linear"
    assert "no multiple of 32 x 64" in conv.reasons["7.weight"]
    with pytest.raises(ExportError, match=r"got torch\.float64"):
        handing_on.semi_structured_layers(linear_net(sparsity=0.6), torch.float64)


def test_without_a_gpu_the_conversion_says_so() -> None:
    model = linear_net(allocation="n:m", sparsity=0.5)
    with pytest.raises(ExportError, match="the model is on cpu, and 2:4 kernels run"):
        handing_on.to_semi_structured(model)
    assert type(model[0].weight) is nn.Parameter


# ---------------------------------------------------------------------- files

WAYS: dict[str, tuple[str, Any]] = {
    "binsparse": ("net.h5", lambda m, p: handing_on.save_binsparse(m, p)),
    "coremltools": (
        "net.mlpackage",
        lambda m, p: handing_on.save_coreml(m, p, batch()[0]),
    ),
    "executorch": (
        "net.pte",
        lambda m, p: handing_on.save_executorch(m, p, batch()[0]),
    ),
}


def written(tool: str, model: nn.Module, folder: Path) -> handing_on.HandedOn:
    """The report of a way out; skipped where its tool is not installed."""
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; docs/handing_on.md has the command")
    name, save = WAYS[tool]
    report: handing_on.HandedOn = save(model, folder / name)
    return report


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", WAYS)
def test_a_file_keeps_every_zero(tool: str, tmp_path: Path) -> None:
    model = sparse_net()
    report = written(tool, model, tmp_path)
    zeros, total = counts(model)
    assert report.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == [report.path.name]
    if tool == "coremltools":
        # Small layers stay dense in the file.
        found = handing_on.read_coreml(report.path)
        assert len(found) == report.sparse == 3
    assert (report.zeros, report.total) == (zeros, total)
    # Again, over the old one.
    assert written(tool, model, tmp_path).size > 0


@pytest.mark.sweep
def test_binsparse_gives_every_tensor_back(tmp_path: Path) -> None:
    model = sparse_net()
    report = written("binsparse", model, tmp_path)
    assert report.sparse == 3
    found = handing_on.load_binsparse(report.path)
    assert list(found) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype
    with pytest.raises(ExportError, match="bfloat16, which Binsparse has no type for"):
        handing_on.save_binsparse(sparse_net().bfloat16(), tmp_path / "other.h5")


@pytest.mark.parametrize("tool", WAYS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sparsify_fx.apply(small_net(), "random", sparsity=0.5),
            "still rewritten",
        ),
        (small_net, "none of the weights is zero"),
    ],
    ids=["rewritten", "dense"],
)
def test_what_has_no_zeros_to_hand_on_is_refused(
    tool: str, make: Any, message: str, tmp_path: Path
) -> None:
    name, save = WAYS[tool]
    with pytest.raises(SparsifyError, match=re.escape(message)):
        save(make(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tool", WAYS)
def test_a_tool_that_is_missing_is_named(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tool, "executorch.exir", "executorch.backends.xnnpack.partition"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    name, save = WAYS[tool]
    with pytest.raises(ExportError, match=f"{tool} is not installed; pip install"):
        save(sparse_net(), tmp_path / name)
    assert not list(tmp_path.iterdir())
