"""Unfinished run folders of sparsify_fx 0.1 go on to the bits that they would have reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sparsify_fx.train import TrainConfig
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.session import build_session
from tests.train.common import quietly, small, write_images


def stop_at(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the next training as its epoch number `epoch` is recorded."""
    append = RunFolder.append

    def stopping(self: RunFolder, row: Any) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(RunFolder, "append", stopping)


def as_0_1(state: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """A checkpoint as version 0.1 wrote it: one group, states by number, no progress, no count."""
    session = build_session(config)
    now = [id(p) for group in session.optimizer.param_groups for p in group["params"]]
    then = [now.index(id(p)) for p in session.model.parameters()]

    def numbered(states: dict[int, Any]) -> dict[int, Any]:
        return {old: states[new] for old, new in enumerate(then) if new in states}

    schedule, groups = state["scheduler"], state["optimizer"]["param_groups"]
    for snapshot in schedule["snapshots"].values():
        if "optimizer" in snapshot:
            ((record,),) = snapshot["optimizer"]
            snapshot["optimizer"] = numbered(
                {n: s.get("", {}) for n, s in record["state"].items()}
            )
    group = {key: value for key, value in groups[0].items() if key != "name"} | {
        "params": list(range(len(then)))
    }
    rates = {**schedule["rates"], "base": schedule["rates"]["base"][:1]}
    return {
        "epoch": state["epoch"],
        "model": {
            key: value
            for key, value in state["model"].items()
            if not key.endswith("_extra_state")
        },
        "optimizer": {
            "state": numbered(state["optimizer"]["state"]),
            "param_groups": [group],
        },
        "scheduler": {**schedule, "rates": rates},
    }


@pytest.mark.parametrize("method", ["wr", "wr+signin", "lrr", "gmp"])
def test_a_run_of_0_1_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    data = write_images(tmp_path / "mine.npz")
    config = small(
        data, f"method={method}", "sparsity=0.2", "epochs=4", "model=lenet5-bn"
    )
    whole = quietly(config, tmp_path / "whole")
    epoch = 6 if whole.epochs > 4 else 3  # after a rewind where there is one
    with monkeypatch.context() as patch:
        stop_at(epoch, patch)
        with pytest.raises(KeyboardInterrupt):
            quietly(config, tmp_path / "stopped")
    (folder,) = (tmp_path / "stopped").iterdir()
    state = as_0_1(torch.load(folder / "checkpoint.pt", weights_only=True), config)
    assert len(state["optimizer"]["param_groups"]) == 1
    torch.save(state, folder / "checkpoint.pt")
    (folder / "data.json").unlink()
    again = quietly(config, tmp_path / "stopped")
    ours, theirs = (
        safetensors.torch.load_file(r.path / "model.safetensors")
        for r in (again, whole)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
