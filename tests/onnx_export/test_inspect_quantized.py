"""`inspect_file` on quantized weights of torchao and compressed-tensors: one weight each, zero at the zero point."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export import FileReport, LayerRow, inspect_file
from tests.fresh import run_fresh


def rows(report: FileReport) -> dict[str, LayerRow]:
    return {row.name: row for row in report.layers}


def packed(entries: Tensor, bits: int, dense: bool) -> Tensor:
    """int32 words as compressed-tensors has them: entries running on, or whole ones in each word."""
    rows = []
    for row in (entries + (1 << bits - 1)).tolist():
        each = len(row) if dense else 32 // bits
        words = []
        for start in range(0, len(row), each):
            number = sum(
                value << place * bits
                for place, value in enumerate(row[start : start + each])
            )
            words += [
                number >> 32 * word & 0xFFFFFFFF
                for word in range(math.ceil(each * bits / 32))
            ]
        rows.append(words[: math.ceil(len(row) * bits / 32)] if dense else words)
    return torch.tensor(rows, dtype=torch.int64).to(torch.int32)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_integers_of_compressed_tensors(
    tmp_path: Path, bits: int, dense: bool
) -> None:
    low = -(1 << bits - 1)
    entries = torch.randint(low, -low, (12, 96))
    zeros = torch.randint(low, -low, (12, 3))
    state = {
        "m.weight_packed": packed(entries, bits, dense),
        "m.weight_scale": torch.ones(12, 3),
        "m.weight_zero_point": packed(zeros.T, bits, dense).T.contiguous(),
        "m.weight_shape": torch.tensor([12, 96]),
        "m.input_scale": torch.ones(1),
    }
    save_file(state, tmp_path / "m.safetensors")
    found = rows(inspect_file(tmp_path / "m.safetensors"))
    assert set(found) == {"m.weight", "m.input_scale"}
    row = found["m.weight"]
    expected = int((entries != zeros.repeat_interleave(32, 1)).sum())
    assert (row.shape, row.dtype, row.nonzeros, row.prunable) == (
        (12, 96),
        f"int{bits}",
        expected,
        True,
    )
    order = torch.randint(0, 3, (96,), dtype=torch.int32)
    save_file(state | {"m.weight_g_idx": order}, tmp_path / "m.safetensors")
    expected = int((entries != zeros[:, order.long()]).sum())
    assert (
        rows(inspect_file(tmp_path / "m.safetensors"))["m.weight"].nonzeros == expected
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_beside_their_scale(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.randint(-2, 3, (16, 256)).float()
    state = {
        "m.weight": weight.to(dtype),
        "m.weight_scale": torch.ones(16, 2),
        "m.bias": torch.ones(16),
    }
    save_file(state, tmp_path / "m.safetensors")
    report = inspect_file(tmp_path / "m.safetensors")
    assert (set(rows(report)), report.weights) == ({"m.weight", "m.bias"}, 4096)
    assert report.nonzeros == int(weight.count_nonzero())
    if dtype is torch.int8:
        zero = torch.tensor([[1, -2]] * 16, dtype=torch.int8)
        save_file(state | {"m.weight_zero_point": zero}, tmp_path / "m.safetensors")
        expected = int((weight != zero.repeat_interleave(128, 1)).sum())
        assert inspect_file(tmp_path / "m.safetensors").nonzeros == expected


def test_packed_floats_and_bitmasks(tmp_path: Path) -> None:
    codes = torch.randint(0, 256, (8, 48), dtype=torch.uint8)
    four = sum(int(((codes >> shift & 7) != 0).sum()) for shift in (0, 4))
    state = {
        "four.weight_packed": codes,
        "four.weight_scale": torch.ones(8, 6, dtype=torch.float8_e4m3fn),
        "six.weight_packed": torch.tensor(
            [[0, 0, 0b10000100] * 16] * 8, dtype=torch.uint8
        ),  # the last: 33, the sign and 1
        "six.weight_scale": torch.ones(8, 2, dtype=torch.uint8),
        "bits.weight.compressed": torch.tensor([1.0, 2.0, 0.0]),
        "bits.weight.bitmask": torch.tensor([[3], [4]], dtype=torch.uint8),
        "bits.weight.shape": torch.tensor([2, 8]),
    }
    save_file(state, tmp_path / "m.safetensors")
    found = rows(inspect_file(tmp_path / "m.safetensors"))
    assert {
        name: (row.shape, row.dtype, row.nonzeros) for name, row in found.items()
    } == {
        "four.weight": ((8, 96), "float4_e2m1", four),
        "six.weight": ((8, 64), "float6_e2m3", 8 * 16),
        "bits.weight": ((2, 8), "float32", 2),
    }


def test_parts_that_do_not_fit_are_told(tmp_path: Path) -> None:
    state = {
        "m.weight": torch.ones(4, 8, dtype=torch.int8),
        "m.weight_scale": torch.ones(4, 1),
    }
    save_file(
        state | {"m.weight_zero_point": torch.ones(3, 5, 2, dtype=torch.int8)},
        tmp_path / "m.safetensors",
    )
    with pytest.raises(
        CheckpointError, match=r"m\.weight: data of \[4, 8\] do not fit"
    ):
        inspect_file(tmp_path / "m.safetensors")


AO = """
import torch
from torch import nn
from torchao.quantization import (
    Float8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
)
for name, config in {
    "int8": Int8WeightOnlyConfig(), "dynamic": Int8DynamicActivationInt8WeightConfig(),
    "float8": Float8WeightOnlyConfig(), "intx": IntxWeightOnlyConfig(weight_dtype=torch.int4),
}.items():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
        model[0].weight[:, 1::2] += model[0].weight[:, 1::2].sign()
    quantize_(model, config)
    torch.save({"model": model.state_dict()}, f"{name}.pt")

from torchao.quantization.quantize_.workflows.int4.int4_tensor import Int4Tensor

t = Int4Tensor(torch.zeros(8, 32, dtype=torch.int8), torch.ones(2, 8), torch.zeros(2, 8), [1, 32], (8, 64))
torch.save({"w": t}, "int4.pt")
"""


@pytest.fixture(scope="module")
def torchao_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written in a process of its own, since torch.load knows the classes of packages that are imported."""
    pytest.importorskip("torchao")
    folder = tmp_path_factory.mktemp("torchao")
    done = run_fresh(
        "import warnings; warnings.simplefilter('ignore')\n" + AO, folder=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.sweep
@pytest.mark.slow
def test_weights_of_torchao_are_read_without_it(torchao_files: Path) -> None:
    for name, dtype in {
        "int8": "int8",
        "dynamic": "int8",
        "float8": "float8_e4m3fn",
        "intx": "int4",
    }.items():
        (weight, bias) = inspect_file(torchao_files / f"{name}.pt").layers
        assert (weight.name, weight.shape, weight.dtype, weight.nonzeros) == (
            "0.weight",
            (128, 64),
            dtype,
            128 * 32,
        )
        assert weight.prunable
        assert weight.bytes_stored > weight.size
        assert bias.name == "0.bias"


def test_weights_of_torchao_in_safetensors(tmp_path: Path) -> None:
    state = {
        "0._weight_qdata": torch.tensor([[1, 0, 5, 5], [2, 2, 0, 3]], dtype=torch.int8),
        "0._weight_scale": torch.ones(2, 1),
        "0._weight_zero_point": torch.tensor([[5], [2]], dtype=torch.int8),
        "0.bias": torch.ones(2),
    }
    save_file(
        state,
        tmp_path / "m.safetensors",
        metadata={"0.weight": '{"_type": "Int8Tensor"}'},
    )
    found = rows(inspect_file(tmp_path / "m.safetensors"))
    assert (set(found), found["0.weight"].nonzeros) == ({"0.weight", "0.bias"}, 4)


@pytest.mark.slow
def test_an_unknown_packing_is_told(torchao_files: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"w: is a tensor of a subclass, \[8, 64\] out of .*qdata.*not known",
    ):
        inspect_file(torchao_files / "int4.pt")
