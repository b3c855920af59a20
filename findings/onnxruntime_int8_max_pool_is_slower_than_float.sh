#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: MaxPool of int8 takes about seven times as long as MaxPool of float32 over the same shape, though it reads a
# quarter of the bytes; only its own NhwcMaxPool, into which it turns the pools between quantized convolutions that it runs in NHWC, is
# faster than float32, and about twenty times as fast as MaxPool of int8 that stays in NCHW. One operator that keeps a quantized net in
# NCHW can cost more than its convolutions gain.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
cd "$folder"
cat > pools.py <<'PYTHON'
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
NCHW, NHWC = ([1, 64, 112, 112], [1, 64, 56, 56]), ([1, 112, 112, 64], [1, 56, 56, 64])


def session(operator, kind, shapes, domain=""):
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **WINDOW)
    ends = [helper.make_tensor_value_info(n, kind, s) for n, s in zip("xy", shapes)]
    graph = helper.make_graph([node], "pool", ends[:1], ends[1:])
    domains = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


whole = np.random.default_rng(0).integers(-128, 128, NCHW[0]).astype(np.int8)
lines = np.ascontiguousarray(whole.transpose(0, 2, 3, 1))
cases = {
    "float32": (session("MaxPool", TensorProto.FLOAT, NCHW), whole.astype(np.float32)),
    "int8": (session("MaxPool", TensorProto.INT8, NCHW), whole),
    "int8, NHWC": (session("NhwcMaxPool", TensorProto.INT8, NHWC, "com.microsoft"), lines),
}
results = {name: run.run(None, {"x": given})[0] for name, (run, given) in cases.items()}
assert np.array_equal(results["float32"], results["int8"])
assert np.array_equal(results["int8"].transpose(0, 2, 3, 1), results["int8, NHWC"])
taken = {name: [] for name in cases}
for _ in range(41):
    for name, (run, given) in cases.items():
        begin = time.thread_time()
        run.run(None, {"x": given})
        taken[name].append(time.thread_time() - begin)
medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
print({name: f"{1e3 * median:.2f} ms" for name, median in medians.items()})
assert medians["int8"] > 2.5 * medians["float32"], "int8 is no longer slow"
assert medians["int8, NHWC"] < medians["float32"], "NHWC is no longer fast"
PYTHON
"$folder/env/bin/python" pools.py
