"""Models for benchmarks of the sparse runtime: random weights, norms calibrated on real images, pruned by magnitude."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from sparsify_fx import export
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model

SMALL = ("resnet20", "resnet32", "resnet56")
"""Models for images of 32 pixels; all others take 224."""


@dataclass(frozen=True)
class Subject:
    """A model in PyTorch, in dense ONNX, and real images that fit it."""

    name: str
    torch_model: nn.Module
    dense: onnx.ModelProto
    images: torch.Tensor

    def feed(self, batch: int) -> dict[str, np.ndarray]:
        """So many images, under the name of the model's input."""
        return {self.dense.graph.input[0].name: self.images[:batch].numpy()}


def subject(name: str, data: str) -> Subject:
    """The model `name` of the zoo or timm; `data` is a spec of `load_data`: mnist5k, npz:PATH, imagefolder:PATH."""
    side, classes = (32, 10) if name in SMALL else (224, 1000)
    images = real_images(data, side)
    torch.manual_seed(0)
    model = build_model(
        name if name in SMALL else f"timm:{name}",
        num_classes=classes,
        in_channels=3,
        image_size=side,
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of what it sees
            nn.init.ones_(
                module.weight
            )  # of zeros, as timm begins, export would remove the whole block
    _strengthen_head(model)
    with torch.no_grad():
        model.train()(images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model.eval(), path, images[:2], encoding="dense")
        return Subject(name, model, onnx.load(path), images)


def _strengthen_head(model: nn.Module) -> None:
    """Draw the last linear layer as wide as the median layer; as timm begins, one threshold for all would empty it."""
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    spread = float(np.median([float(layer.weight.detach().std()) for layer in layers]))
    head = next(layer for layer in reversed(layers) if isinstance(layer, nn.Linear))
    nn.init.normal_(head.weight, std=spread)


def real_images(data: str, side: int, count: int = 16) -> torch.Tensor:
    """Real test images of a data set at this size, in three colors: float32 [count, 3, side, side]."""
    images, _ = next(
        iter(load_data(data, image_size=side).test.epoch(count, train=False))
    )
    return images.expand(-1, 3, -1, -1).contiguous()


def pruned(dense: onnx.ModelProto, sparsity: float, mask: str) -> onnx.ModelProto:
    """The smallest weights at zero: of every layer (uniform), of all together (global), or of 1x1 layers (pointwise).

    `pointwise` prunes each convolution with 1x1 kernels and each matrix product alike, and nothing else.
    """
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    read = {
        node.input[1]
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }
    tensors = [
        tensor
        for tensor in model.graph.initializer
        if tensor.name in read and len(tensor.dims) > 1
    ]
    if mask == "pointwise":
        tensors = [
            tensor
            for tensor in tensors
            if all(length == 1 for length in tensor.dims[2:])
        ]
    weights = [numpy_helper.to_array(tensor) for tensor in tensors]
    overall = np.quantile(
        np.abs(np.concatenate([weight.ravel() for weight in weights])), sparsity
    )
    for tensor, weight in zip(tensors, weights, strict=True):
        limit = overall if mask == "global" else np.quantile(np.abs(weight), sparsity)
        tensor.CopyFrom(
            numpy_helper.from_array(
                np.where(np.abs(weight) < limit, np.float32(0), weight), tensor.name
            )
        )
    return model
