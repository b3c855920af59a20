#!/usr/bin/env bash
# torch 2.14.1: as long as any graph that reads a parameter is alive, a loss that was kept for a log for instance, giving the
# parameter data of another length makes every later backward pass fail: the shape of its gradient was noted in a node that
# new graphs share with the old one. Once the old graph is gone the same lines work. Data of another dtype make a new node at
# once, so that they work in both cases.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch


def outcome(data, keep):
    parameter = torch.nn.Parameter(torch.ones(4))
    kept = parameter.sum() if keep else None
    parameter.data = data
    try:
        (parameter * 2).sum().backward()
    except RuntimeError as error:
        return str(error).split(" - ")[-1]
    return parameter.grad.tolist()


seen = {
    "no graph, other length": outcome(torch.ones(2), False),
    "a graph, other length": outcome(torch.ones(2), True),
    "a graph, other dtype and length": outcome(torch.ones(2, dtype=torch.float64), True),
}
for what, happened in seen.items():
    print(f"{what}: {happened}")
assert seen["no graph, other length"] == [2.0, 2.0]
assert "compatible with [4]" in seen["a graph, other length"]
assert seen["a graph, other dtype and length"] == [2.0, 2.0]
PYTHON
