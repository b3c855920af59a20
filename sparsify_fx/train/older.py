"""Checkpoints that sparsify_fx 0.1 wrote: its optimizers held all parameters in one group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer


def in_groups(
    state: Mapping[str, Any], optimizer: Optimizer, model: nn.Module
) -> dict[str, Any]:
    """The checkpoint of a training whose optimizer had one group, with that group divided into those of `optimizer`.

    Groups keep their own options but for the learning rate. Any other checkpoint comes back as it is.
    """
    saved, own = state["optimizer"], optimizer.state_dict()["param_groups"]
    groups, base = saved.get("param_groups"), state["scheduler"]["rates"].get("base")
    # With one group today as well, parameters are numbered as they were.
    if len(own) == 1 or len(groups) != 1 or len(base) != 1:
        return dict(state)
    (group,) = groups

    # 1. Optimizers number parameters by their place in the groups. Version 0.1 had them in the model's order, today's
    #    groups follow one another: `now` has for each of today's places the number of that time.
    trainable = [p for p in model.parameters() if p.requires_grad]
    in_order = {id(p): index for index, p in enumerate(trainable)}
    now: list[int | None] = []
    for own_group in optimizer.param_groups:
        now += [in_order.get(id(p)) for p in own_group["params"]]
    if group["params"] != list(range(len(now))):
        return dict(state)

    # 2. The optimizer's state moves to the new numbers. Weight decay is the new groups' own; the rate is the saved
    #    one, for a scheduler may be in the middle of its curve.
    divided = {
        "state": _renumbered(saved["state"], now),
        "param_groups": [{**group, **mine, "lr": group["lr"]} for mine in own],
    }

    # 3. Snapshots that a later rewind goes back to hold states of the optimizer too, by the same old numbers.
    schedule = state["scheduler"]
    snapshots = {
        point: {
            part: _renumbered(value, now) if part == "optimizer" else value
            for part, value in snapshot.items()
        }
        for point, snapshot in schedule["snapshots"].items()
    }

    # 4. The scheduler keeps a base rate for every group; all of them had that of the one.
    schedule = {
        **schedule,
        "rates": {**schedule["rates"], "base": base * len(own)},
        "snapshots": snapshots,
    }
    return {**state, "optimizer": divided, "scheduler": schedule}


def _renumbered(states: Any, now: list[int | None]) -> Any:
    """States by the number of their parameter, in its place of now; what is not by number is of a later version."""
    if not isinstance(states, Mapping):
        return states
    return {new: states[old] for new, old in enumerate(now) if old in states}
