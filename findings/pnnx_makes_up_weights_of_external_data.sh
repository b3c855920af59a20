#!/usr/bin/env bash
# pnnx 20261020: of an ONNX model whose weights lie in external data, which ONNX allows and exporters write for large
# models, it reads no weight. It says "FATAL ERROR no external data" for each, goes on, writes every file of the converted
# model at its full size, and ends with exit code 0. The weights in them are whatever was in its memory: mostly zeros, and
# some numbers up to 1e38 that differ from run to run. ncnn loads the model and computes with them. Seen with a model of
# one Gemm; with the same weights inside the file the conversion is right.
# What it means here: `sparsify-fx check` says that ncnn breaks such files, and `pack` keeps files below 2 GB whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q onnx==1.23.2 numpy
# Its wrapper in Python wants torch; the program itself does not.
"$folder/env/bin/pip" install -q --no-deps pnnx==20261020
cd "$folder"
mkdir inside outside
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

weight = numpy_helper.from_array(np.full((256, 256), 0.5, np.float32), "w")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 256]) for name in "xy"]
node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, "inside/model.onnx")
onnx.save(model, "outside/model.onnx", save_as_external_data=True, location="model.data", size_threshold=256)
for place in ("inside", "outside"):
    onnx.checker.check_model(f"{place}/model.onnx", full_check=True)
PYTHON
pnnx=$(find "$folder/env" -path '*pnnx/pnnx' -type f)
for place in inside outside; do
  (cd "$place" && "$pnnx" model.onnx 'inputshape=[1,256]' fp16=0 >told 2>&1)
  echo "$place: exit code 0, $(grep -c 'no external data' "$place/told" || true) weights not read"
done
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np

for place in ("inside", "outside"):
    # A tag of four bytes stands before the weights.
    found = np.fromfile(f"{place}/model.ncnn.bin", np.float32, offset=4)[: 256 * 256]
    print(f"{place}: {found.size} weights, {np.mean(found == 0.5):.1%} of them 0.5")
    assert found.size == 256 * 256
    assert (np.mean(found == 0.5) == 1) == (place == "inside")
PYTHON
