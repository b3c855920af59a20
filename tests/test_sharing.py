"""A weight that is read several times in one span is computed once, and nothing else changes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import timm.layers
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import sparsify_fx
from sparsify_fx.owners import programs
from sparsify_fx.sharing import shared_weights


class Twice(nn.Module):
    """One layer called twice, as detection heads, RAFT and coat do it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu())


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def made(model: nn.Module, method: str = "signin") -> nn.Module:
    return sparsify_fx.apply(model, method, sparsity=0.5)


def evaluations(model: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """How often each program of `model` ran during `run()`."""
    counts = dict.fromkeys(programs(model), 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[name] += 1

        return hook

    handles = [program.register_forward_hook(count(name)) for name, program in programs(model).items()]
    run()
    for handle in handles:
        handle.remove()
    return counts


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LSTM(6, 4), (3, 2, 6)),
        (nn.GRU(6, 4), (3, 2, 6)),
        (timm.layers.StdConv2d(3, 4, 3), (1, 3, 5, 5)),
        (timm.layers.ScaledStdConv2d(3, 4, 3), (1, 3, 5, 5)),
        (timm.layers.ScaledStdConv2dSame(3, 4, 3), (1, 3, 5, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_reads_its_weight_twice_computes_it_once(
    layer: nn.Module, shape: tuple[int, ...], training: bool
) -> None:
    model = made(copy.deepcopy(layer)).train(training)
    inputs = torch.randn(shape)
    with torch.set_grad_enabled(training):
        assert set(evaluations(model, lambda: model(inputs)).values()) == {1}
        assert set(evaluations(model, lambda: (model(inputs), model(inputs))).values()) == {2}, "two forwards"


@pytest.mark.parametrize("attention", [nn.MultiheadAttention(6, 2), nn.MultiheadAttention(6, 2, kdim=6, vdim=6)])
def test_attention_and_its_fast_path_compute_each_weight_once(attention: nn.MultiheadAttention) -> None:
    model = made(attention).eval()
    x = torch.randn(3, 2, 6)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert set(evaluations(model, lambda: model(x, x, x)).values()) == {1}


def test_a_layer_called_twice_and_a_tied_weight_are_computed_once_in_the_context() -> None:
    model, x = made(Twice()), torch.randn(2, 6)
    plain = model(x)
    plain.sum().backward()
    expected = gradients(model)
    model.zero_grad()

    def run() -> None:
        with shared_weights():
            outputs = model(x)
        assert torch.equal(outputs, plain)
        outputs.sum().backward()

    assert evaluations(model, lambda: model(x)) == {"layer.weight": 2}
    assert evaluations(model, run) == {"layer.weight": 1}
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name])

    tied = nn.Sequential(nn.Embedding(6, 6), nn.Linear(6, 6, bias=False))
    tied[1].weight = tied[0].weight
    made(tied)
    with shared_weights():
        assert evaluations(tied, lambda: tied(torch.arange(3))) == {"0.weight": 1}


def test_backward_twice_in_one_context() -> None:
    """Without care the second forward would meet a graph that the first backward has freed."""
    model, x = made(Twice()), torch.randn(2, 6)
    with shared_weights():
        model(x).sum().backward()
        first = gradients(model)
        model.zero_grad()
        model(x).sum().backward()
    assert all(torch.equal(gradient, first[name]) for name, gradient in gradients(model).items())


def test_two_losses_of_one_forward_as_without_the_context() -> None:
    model, x = made(Encoder()), torch.randn(2, 3, 6)
    first, second = model(x), model(x)
    first.sum().backward()
    second.sum().backward()
    with shared_weights():
        first, second = model(x), model(x)
    (first.sum() + second.sum()).backward()
    with shared_weights():
        first, second = model(x), model(x)
    first.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        second.sum().backward()


@pytest.mark.parametrize("method", ["signin", "random", "str", "l0"])
def test_changes_in_place_are_seen(method: str) -> None:
    """Without care an optimizer step, a new mask, noise or evaluation mode would go unnoticed."""
    model, x = made(Twice(), method), torch.randn(2, 6)
    twin = copy.deepcopy(model)
    outputs = []
    for each, sharing in ((model, True), (twin, False)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        seen = []
        with shared_weights() if sharing else torch.enable_grad():
            for _ in range(3):
                optimizer.zero_grad()
                seen.append(each(x))
                seen[-1].sum().backward()
                optimizer.step()
            (program,) = programs(each).values()
            seen += [each(x), each.eval()(x)]
            mask = program.current_mask()
            program.write(program.theta() * 3) if mask is None else program.set_mask(1 - mask)
            seen.append(each(x))
            with torch.no_grad():
                next(program.parameters()).mul_(2)
            seen.append(each(x))
        outputs.append(seen)
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_read_without_gradients_does_not_serve_one_with() -> None:
    model, x = made(Twice()), torch.randn(2, 6)
    with shared_weights():
        with torch.no_grad():
            model(x)
        with torch.inference_mode():
            model(x)
        model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_recomputes_the_same(reentrant: bool) -> None:
    """Without care the first forward would save other tensors than the recomputation."""
    model, x = made(nn.Sequential(Twice(), Encoder())), torch.randn(2, 3, 6, requires_grad=True)

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
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    other = {name: value * 2 for name, value in own.items()}

    def loss(values: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, values, (one,)).square().sum()

    plain = functional_call(model, other, (x,)), vmap(grad(loss), in_dims=(None, 0))(own, x)
    with shared_weights():
        model(x)
        shared = functional_call(model, other, (x,)), vmap(grad(loss), in_dims=(None, 0))(own, x)
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

    threads = [threading.Thread(target=work, args=(index % 2 == 0,)) for index in range(4)]
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

        assert evaluations(model, run) == {"layer.weight": 2}, "the other thread has no context"
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


def test_compile_joins_equal_computations_by_itself() -> None:
    """One graph, no recompile, in and out of the context; the compiler's graph holds each product once."""
    torch.compiler.reset()
    counts = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        products = [node for node in graph.graph.nodes if node.target is torch.ops.aten.mul.Tensor]
        counts.append(len(products))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=count, bw_compiler=count, partition_fn=min_cut_rematerialization_partition)
    model, x = made(Twice()), torch.randn(2, 6)
    train = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(2):
        train(x).sum().backward()
    with shared_weights():
        outputs = train(x)
    torch.testing.assert_close(outputs, model(x))
    assert len(counts) == 2, "one forward and one backward graph"
    assert counts[0] == 2, "m * w and the mask, once"
