"""Small files of every kind that this package reads: what `fuzz_files` damages."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from torch import nn

import sparsify_fx
from sparsify_fx.onnx_export import pack_onnx
from tests.onnx_export.places import PLACES, model_of, pruned, tensor

PACKED = [
    ("gap", "fp32", False), ("gap", "fp32-packed", True), ("bitmask", "fp32", False), ("coo", "fp32", False),
    ("gap", "int8", False), ("auto", "fp16", False),
]  # fmt: skip


def make_seeds(folder: Path) -> Path:
    """One folder for each kind, with one file to damage and what lies beside it; the folder of all."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for name, make in PLACES.items():
        onnx.save(make(), _in(folder, f"place-{name}") / "model.onnx")
    plain = folder / "place-in_nodes" / "model.onnx"
    for encoding, values, functions in PACKED:
        place = _in(
            folder, f"packed-{encoding}-{values}{'-functions' if functions else ''}"
        )
        pack_onnx(
            plain,
            place / "model.onnx",
            encoding=encoding,
            values=values,
            functions=functions,
        )
    _networks(folder)
    _external(folder)
    _checkpoints(folder)
    return folder


def _in(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def _networks(folder: Path) -> None:
    """A small network: exported, with sparse operators, quantized, quantized and packed."""
    from tests.onnx_export.test_quantized import quantized

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= torch.rand_like(parameter) < 0.05
    image = torch.randn(1, 3, 8, 8)
    sparsify_fx.export(model, _in(folder, "exported") / "model.onnx", image)
    sparsify_fx.export(
        model,
        _in(folder, "sparse-operators") / "model.onnx",
        image,
        target="sparse-ort",
    )
    for how in ("qdq-channel-int8", "dynamic-uint8"):
        place = _in(folder, how)
        quantized(place, how).rename(place / "model.onnx")
        (place / "float.onnx").unlink()
        pack_onnx(place / "model.onnx", _in(folder, f"packed-{how}") / "model.onnx")


def _external(folder: Path) -> None:
    """A model with its weights in another file, one of them sparse."""
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"]),
        onnx.helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    model = model_of(nodes, [tensor(pruned(1), "w"), tensor(pruned(2), "v")])
    file = _in(folder, "outside") / "model.onnx"
    onnx.save(
        model, file, save_as_external_data=True, location="model.data", size_threshold=0
    )


def _checkpoints(folder: Path) -> None:
    """State dicts: ours and plain ones, in both formats."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    save_file(net.state_dict(), _in(folder, "safetensors") / "model.safetensors")
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    torch.save(
        {"model": net.state_dict(), "optim": optimizer.state_dict()},
        _in(folder, "torch") / "model.pt",
    )
    for method in ("signin", "str", "l0"):
        rewritten = sparsify_fx.apply(
            nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 4)), method, sparsity=0.5
        )
        torch.save(rewritten.state_dict(), _in(folder, f"torch-{method}") / "model.pt")
    np.savez(_in(folder, "npz") / "model.npz", w=np.eye(3))
