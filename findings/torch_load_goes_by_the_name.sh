#!/usr/bin/env bash
# torch 2.14.1: torch.load decides by the file's name alone, and not by its content, that a file is in the safetensors
# format. A checkpoint that torch.save wrote under the name x.safetensors (which it does without a word) cannot be loaded by
# that name: the error speaks of a header that is too large. The open file of the same bytes loads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 safetensors numpy
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch

torch.save({"w": torch.ones(2)}, "x.safetensors")
with open("x.safetensors", "rb") as stream:
    assert torch.load(stream, weights_only=True)["w"].tolist() == [1.0, 1.0]
try:
    torch.load("x.safetensors", weights_only=True)
    seen = "loads"
except Exception as error:
    seen = f"{type(error).__name__}: {error}".splitlines()[0]
print("by its name:", seen)
assert seen != "loads" and "header" in seen.lower(), seen
PYTHON
