"""Trial runs leave no trace, also where several threads make them at once."""

from __future__ import annotations

import random
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
import torch._dynamo  # the stance counts once it is there
from torch import nn

import sparsify_fx
from sparsify_fx.randomness import undisturbed


def test_threads_that_overlap_leave_the_compiler_and_the_warnings_as_they_were() -> (
    None
):
    filters, state = list(warnings.filters), random.getstate()
    compiled: list[int] = []

    def trial(number: int) -> None:
        with undisturbed():
            time.sleep(0.002 * (number % 3))
            random.random()

    def prepare(number: int) -> None:
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        sparsify_fx.apply(
            net, "random", sparsity=0.97, seed=number
        )  # rows are empty, so that a copy is run

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(trial, range(64)))
        list(threads.map(prepare, range(24)))
    assert list(warnings.filters) == filters
    assert random.getstate() == state

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(2))
    assert len(compiled) == 1, "the compiler works as before"
