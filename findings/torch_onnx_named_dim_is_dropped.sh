#!/usr/bin/env bash
# torch 2.14.1: torch.onnx.export(dynamo=True, dynamic_shapes=...) writes a fixed axis without a word where a
# torch.export.Dim object asks for an open one that the model cannot have (the channels of a convolution); the same
# request as a string raises. Scripts that pass Dim objects and only look whether the export succeeded ship a fixed axis.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 onnx==1.23.2 onnxscript onnxruntime==1.32.0
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PYTHON' 2>/dev/null
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, image):
        return self.conv(image)


def axes(shapes):
    try:
        program = torch.onnx.export(
            Net().eval(), (torch.ones(2, 3, 8, 8),), dynamo=True, verbose=False, dynamic_shapes={"image": shapes}
        )
    except Exception as error:
        return type(error).__name__
    dims = program.model_proto.graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


as_object, as_text = axes({1: torch.export.Dim("chan")}), axes({1: "chan"})
print("asked for with a Dim object:", as_object, "| with a string:", as_text)
assert as_object == [2, 3, 8, 8], as_object
assert isinstance(as_text, str), as_text
PYTHON
