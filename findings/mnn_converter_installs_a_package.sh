#!/usr/bin/env bash
# MNN 3.6.1: its command mnnconvert installs a package on its own. When aliyun.log cannot be imported, it runs the first
# `pip` that the PATH has, with `install -U aliyun-log-python-sdk`: whatever environment that belongs to, not the one that
# MNN is in. Seen with a venv of onnx 1.23.2 first on the PATH: that package took its protobuf from 7 back to 5, and
# `import onnx` raised VersionError there from then on. Here a `pip` that only notes what it is asked stands first.
# What it means here: benchmarks/runtimes.py gives each runtime an environment of its own and its own PATH.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q MNN==3.6.1 onnx==1.23.2
"$folder/env/bin/python" - "$folder/small.onnx" <<'PYTHON'
import sys

from onnx import TensorProto, checker, helper, save

sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "small", sides[:1], sides[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)
save(model, sys.argv[1])
PYTHON

mkdir "$folder/first"
printf '#!/bin/sh\necho "pip $*" >>"%s/asked"\n' "$folder" >"$folder/first/pip"
chmod +x "$folder/first/pip"
cd "$folder"
PATH="$folder/first:$PATH" "$folder/env/bin/mnnconvert" -f ONNX --modelFile small.onnx --MNNModel small.mnn --bizCode none \
  >told 2>&1 || true
echo "MNN 3.6.1, mnnconvert asked: $(cat asked)"
grep -q "^pip install -U aliyun-log-python-sdk" asked
