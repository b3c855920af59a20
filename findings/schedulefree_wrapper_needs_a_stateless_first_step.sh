#!/usr/bin/env bash
# schedulefree 1.4.1, torch 2.14.1: ScheduleFreeWrapper is for any optimizer, but puts its own entry into the state of a
# parameter before the first step of the inner one. Adam, RMSprop, NAdam, Rprop and Adadelta of torch make their state when
# it is empty, so their first step is a KeyError; SGD and Adagrad (which makes its state when it is built) train.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 schedulefree==1.4.1 numpy
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import schedulefree
import torch


def first_step(kind):
    parameter = torch.nn.Parameter(torch.ones(3))
    wrapped = schedulefree.ScheduleFreeWrapper(kind([parameter], lr=0.1), momentum=0.9)
    wrapped.train()
    parameter.grad = torch.ones(3)
    try:
        wrapped.step()
    except KeyError as error:
        return f"KeyError {error}"
    return "trains"


names = ("SGD", "Adagrad", "Adam", "NAdam", "RMSprop", "Rprop", "Adadelta")
seen = {name: first_step(getattr(torch.optim, name)) for name in names}
print(seen)
assert seen.pop("SGD") == seen.pop("Adagrad") == "trains"
assert all(what.startswith("KeyError") for what in seen.values()), seen
PYTHON
