"""A run goes on in the other storage: whole factors, or vectors of living entries."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sparsify_fx.programs.owners import programs
from sparsify_fx.train.session import Session, build_session
from tests.train.common import small, write_images


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "mine.npz")


def steps(session: Session, count: int) -> None:
    for inputs, labels in itertools.islice(session.training_batches(0), count):
        session.optimizer.zero_grad()
        F.cross_entropy(session.model(inputs), labels).backward()
        session.optimizer.step()
        session.scheduler.step()


@pytest.mark.parametrize(
    "optimizer", ["{name: adamw, lr: 0.01}", "{name: sgd, lr: 0.1, momentum: 0.9}"]
)
@pytest.mark.parametrize(("first", "second"), [("full", "living"), ("living", "full")])
@pytest.mark.parametrize("method", ["signin", "lrr"])
def test_a_checkpoint_goes_on_in_either_storage(
    data: Path, method: str, first: str, second: str, optimizer: str
) -> None:
    given = (f"method={method}", f"optimizer={optimizer}", "sparsity=0.7", "epochs=2")
    one = build_session(small(data, *given, f"storage={first}"))
    steps(one, 5)  # an epoch
    other = build_session(small(data, *given, f"storage={second}"))
    other.load_state_dict({**copy.deepcopy(one.state_dict()), "epoch": 1})
    for session in (one, other):
        steps(session, 3)
    for name, program in programs(one.model).items():
        twin = programs(other.model)[name]
        assert (program.places() is None) != (twin.places() is None)
        assert torch.equal(program.current_mask(), twin.current_mask())
        torch.testing.assert_close(
            twin.effective(), program.effective(), rtol=1e-4, atol=1e-6
        )


def test_the_command_takes_the_storage(data: Path) -> None:
    living = build_session(small(data, "method=lrr", "storage=living"))
    assert all(p.places() is not None for p in programs(living.model).values())
    assert "storage" in {row[3] for row in living.scheduler.timeline().rows()}
