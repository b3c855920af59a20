"""How the tests run: on all cores, each from the same seed, with one thread of torch."""

from __future__ import annotations

import os
import random
from collections.abc import Generator

import numpy as np
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Also in the processes that tests start: the nets are small, and the workers fill the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
MOST_WORKERS = 4  # each loads torch, and may hold a model of several GB
APART = ("tests/coverage/test_hard_models.py",)
"""Long modules whose tests share nothing."""
TOGETHER = tuple(
    f"tests/distributed/test_{name}.py"
    for name in ("batches", "fsdp", "living", "ranks")
)
"""Modules that share a process group, whose start is most of what they take."""


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """One for each core; none for a test that is asked for by its name, which takes less time than a worker's start."""
    cores = yield
    return (
        0
        if any("::" in argument for argument in config.args)
        else min(cores, MOST_WORKERS)
    )


class ByModule(LoadScopeScheduling):
    """The tests of a module run in one worker, for they share fixtures and caches; the large modules come first.

    xdist's own `loadgroup` would do, but 3.8 does not see the groups under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module: str = nodeid.partition("::")[0]
        if module in TOGETHER:
            return TOGETHER[0]
        return nodeid if module in APART else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    return ByModule(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Of a test with `cross_section`, what is not named there is swept; UsageError for a name that it does not have."""
    unknown: dict[str, set[str]] = {}
    for item in items:
        marker = item.get_closest_marker("cross_section")
        if marker is None:
            continue
        function, _, name = item.nodeid.removesuffix("]").partition("[")
        unknown.setdefault(function, set(marker.args)).discard(name)
        if name not in marker.args:
            item.add_marker("sweep")
    # A misspelled one would leave a test out without a word. Of a selection of tests nothing is known.
    selected = config.getoption("lf", False) or any(
        "::" in each for each in config.args
    )
    left = {function: names for function, names in unknown.items() if names}
    if left and not selected:
        raise pytest.UsageError(f"cross_section names what no test has: {left}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws must not depend on the tests that its worker happened to run before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
