"""Sharing does not disturb checkpointing, transforms, threads, copies, tracers and the compiler."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from sparsify_fx.programs.sharing import shared_weights
from tests.programs.sharing.common import Encoder, Twice, evaluations, gradients, made


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_recomputes_the_same(reentrant: bool) -> None:
    """Without care the first forward would save other tensors than the recomputation."""
    model, x = (
        made(nn.Sequential(Twice(), Encoder())),
        torch.randn(2, 3, 6, requires_grad=True),
    )

    def run(use: bool) -> dict[str, Tensor]:
        model.zero_grad()
        with shared_weights():
            model[0](x)  # a result that the checkpointed call must not take
            y = checkpoint(model, x, use_reentrant=reentrant) if use else model(x)
            y = checkpoint(model, y, use_reentrant=reentrant) if use else model(y)
        y.sum().backward()
        return gradients(model)

    expected = run(False)
    for name, gradient in run(True).items():
        torch.testing.assert_close(gradient, expected[name])


def test_functional_call_grad_and_vmap_in_the_context() -> None:
    model, x = made(Twice()), torch.randn(4, 6)
    own = {
        name: parameter.detach().clone() for name, parameter in model.named_parameters()
    }
    other = {name: value * 2 for name, value in own.items()}

    def loss(values: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, values, (one,)).square().sum()

    plain = (
        functional_call(model, other, (x,)),
        vmap(grad(loss), in_dims=(None, 0))(own, x),
    )
    with shared_weights():
        model(x)
        shared = (
            functional_call(model, other, (x,)),
            vmap(grad(loss), in_dims=(None, 0))(own, x),
        )
    assert torch.equal(shared[0], plain[0])
    assert all(torch.equal(shared[1][name], plain[1][name]) for name in own)


def test_threads_do_not_share_with_each_other() -> None:
    model, x = made(Twice()).eval(), torch.randn(2, 6)
    expected, results, barrier = model(x), [], threading.Barrier(4, timeout=30)

    def work(sharing: bool) -> None:
        barrier.wait()
        for _ in range(50):
            if sharing:
                with shared_weights():
                    results.append(model(x))
            else:
                results.append(model(x))

    threads = [
        threading.Thread(target=work, args=(index % 2 == 0,)) for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 200
    with shared_weights():
        model(x)
        outside = threading.Thread(target=model, args=(x,))

        def run() -> None:
            outside.start()
            outside.join()

        assert evaluations(model, run) == {"layer.weight": 2}, (
            "the other thread has no context"
        )
    assert all(torch.equal(result, expected) for result in results)


def test_copies_made_within_the_context_are_independent() -> None:
    model, x = made(Twice()), torch.randn(2, 6)
    with shared_weights():
        expected = model(x)
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert torch.equal(twin(x), torch.zeros(2, 6))
        assert torch.equal(model(x), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated")
@pytest.mark.parametrize("tracer", ["symbolic_trace", "export", "jit.trace"])
def test_tracing_in_the_context_keeps_the_weights_variable(tracer: str) -> None:
    """Without care a trace would hold the effective weight as a constant."""
    model, x = made(Twice()).eval(), torch.randn(2, 6)
    with shared_weights():
        expected = model(x)
        if tracer == "symbolic_trace":
            traced: nn.Module = torch.fx.symbolic_trace(model)
        elif tracer == "export":
            traced = torch.export.export(model, (x,)).module()
        else:
            traced = torch.jit.trace(model, (x,))
    torch.testing.assert_close(traced(x), expected)
    with torch.no_grad():
        for parameter in traced.parameters():
            parameter.zero_()
    assert not traced(x).any()


def test_fake_tensors_stay_where_they_were_made() -> None:
    model, x = made(Twice()), torch.randn(2, 6)
    expected = model(x)
    with shared_weights():
        with FakeTensorMode(allow_non_fake_inputs=True):
            model(torch.empty(2, 6))
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize(("storage", "multiplied"), [("full", 2), ("living", 1)])
def test_compile_joins_equal_computations_by_itself(
    storage: str, multiplied: int
) -> None:
    """One graph, no recompile, in and out of the context; the compiler's graph holds each product once."""
    torch.compiler.reset()
    counts: list[tuple[int, int]] = []

    def count(
        graph: torch.fx.GraphModule, inputs: list[Tensor]
    ) -> Callable[..., object]:
        products = [
            node
            for node in graph.graph.nodes
            if node.target is torch.ops.aten.mul.Tensor
        ]
        places = [
            node
            for node in graph.graph.nodes
            if node.target is torch.ops.sparsify_fx.place.default
        ]
        counts.append((len(products), len(places)))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=count,
        bw_compiler=count,
        partition_fn=min_cut_rematerialization_partition,
    )
    model, x = made(Twice(), storage=storage), torch.randn(2, 6)
    train = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(2):
        train(x).sum().backward()
    with shared_weights():
        outputs = train(x)
    torch.testing.assert_close(outputs, model(x))
    assert len(counts) == 2, "one forward and one backward graph"
    placed = int(storage == "living")
    assert counts[0] == (multiplied, placed), "m * w and the mask, or placing, once"
