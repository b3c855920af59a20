"""Do an ONNX session and the PyTorch model predict the same classes?"""

from __future__ import annotations

import onnxruntime
import torch
from torch import Tensor, nn


def same_predictions(
    model: nn.Module, session: onnxruntime.InferenceSession, images: Tensor
) -> int:
    """How many images get the same class (the largest of the outputs) from both."""
    with torch.no_grad():
        expected = model(images).argmax(1)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return int((torch.from_numpy(outputs).argmax(1) == expected).sum())
