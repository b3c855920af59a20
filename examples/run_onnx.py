"""Run an exported file in plain onnxruntime, without sparsify_fx or torch.

python examples/run_onnx.py digits.onnx
"""

import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
inputs = session.get_inputs()[0]
shape = [
    size if isinstance(size, int) else 2 for size in inputs.shape
]  # 2 images where the batch is dynamic
outputs = session.run(
    None, {inputs.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
)
print(
    f"{inputs.name} {shape} -> {outputs[0].shape}, classes {outputs[0].argmax(1).tolist()}"
)
