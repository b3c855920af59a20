"""What every rank does with sharded models beside training them: ways out, reads, and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import sparsify_fx
from sparsify_fx import distributed
from sparsify_fx.api import effective_state_dict
from sparsify_fx.distributed.tensor_hash import digest
from sparsify_fx.masks import nonzeros, top_masks
from sparsify_fx.programs.owners import programs
from sparsify_fx.sharding import shard, whole
from tests.conftest import small_net
from tests.distributed.cases import case, data, error_of, masks_of, same_on_all
from tests.distributed.fsdp_cases import Run, batches


@case
def fsdp_ways_out(rank: int, ranks: int) -> dict[str, Any]:
    """Dense weights, a copy, an ONNX file and the merged model are those of the training in one process."""
    run = Run("lrr+signin", rank, ranks, {})
    with distributed.independent():
        alone = Run("lrr+signin", rank, 1, {})
    for _ in range(run.scheduler.steps):
        run.step()
        with distributed.independent():
            alone.step()
    inputs = batches()[0][0]
    with torch.no_grad():
        expected, sharded = alone.model(inputs), run.model(inputs)
    # After a forward without a backward the outermost weights are whole, until somebody asks.
    dense = sparsify_fx.dense_state_dict(run.model)
    copied = distributed.gathered(run.model)
    refused = error_of(lambda: sparsify_fx.export(run.model, "none.onnx", inputs))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        sparsify_fx.export(copied, file, inputs.float())
        session = onnxruntime.InferenceSession(file)
        name = session.get_inputs()[0].name
        (found,) = session.run(None, {name: inputs.float().numpy()})
    still = isinstance(run.model, FSDPModule)
    merged = sparsify_fx.merge(run.model)
    with torch.no_grad():
        outputs = [
            sharded,
            copied(inputs),
            merged(inputs),
            torch.tensor(found).double(),
        ]
    merged(inputs).sum().backward()
    keys = list(sparsify_fx.dense_state_dict(alone.model))
    return {
        "far": [float((each - expected).abs().max()) for each in outputs],
        "equal": all(torch.equal(dense[n], t) for n, t in merged.state_dict().items()),
        "keys": list(merged.state_dict()) == keys,
        "still": still,
        "plain": not any(isinstance(m, FSDPModule) for m in merged.modules())
        and not any(isinstance(p, DTensor) for p in merged.parameters())
        and not any(m._forward_pre_hooks for m in merged.modules()),
        "refused": refused,
    }


@case
def fsdp_reads(rank: int, ranks: int) -> dict[str, Any]:
    """A layer's weight outside of a forward, in full and in living storage, and its gradient."""
    found = {}
    for method in ("lrr+signin", "signin"):
        model = sparsify_fx.apply(small_net(), method, sparsity=0.5)
        known = model[3].weight.detach().clone()
        fully_shard(model)
        weight = model[3].weight
        weight.square().sum().backward()
        program = programs(model)["3.weight"]
        m, w = program.factor_tensors().values()
        assert m.grad is not None
        expected = 2 * whole(m) * whole(w).square()
        found[method] = [
            torch.equal(weight, known),
            float((whole(m.grad) - expected).abs().max()) < 1e-6,
            isinstance(m.grad, DTensor),
        ]
    return found


@case
def fsdp_loads(rank: int, ranks: int) -> dict[str, list[bool]]:
    """States of one process, dense or not, into sharded models in either storage."""
    options = StateDictOptions(full_state_dict=True)
    found = {}
    for method in ("lrr+signin", "signin"):
        alone = sparsify_fx.apply(small_net(1), method, sparsity=0.5)
        wanted = effective_state_dict(alone)
        found[method] = []
        for state in (alone.state_dict(), wanted):
            model = sparsify_fx.apply(small_net(), method, sparsity=0.5)
            fully_shard(model)
            # A copy: torch puts DTensors into the dict that it is given.
            set_model_state_dict(model, dict(state), options=options)
            dense = effective_state_dict(model)
            close = [torch.allclose(dense[n], t, atol=1e-6) for n, t in wanted.items()]
            found[method].append(all(close))
    return found


@case
def fsdp_selection(rank: int, ranks: int) -> dict[str, Any]:
    """Masks of sharded scores are those of whole ones: ties, infinities, signed zeros, integers, every budget."""
    mesh = init_device_mesh("cpu", (ranks,))
    generator = torch.Generator().manual_seed(3)
    shapes = {"a": (7, 3), "b": (1, 5), "c": (12,), "d": (3, 2, 2)}
    like = {
        name: distribute_tensor(torch.zeros(shape), mesh, [Shard(0)])
        for name, shape in shapes.items()
    }
    differing, counted = 0, 0
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64):
        scores = {}
        for name, shape in shapes.items():
            values = torch.randint(-3, 3, shape, generator=generator)
            scores[name] = values.to(dtype)
        if dtype.is_floating_point:
            scores["a"][0, 0], scores["c"][3] = -torch.inf, torch.inf
            scores["d"][1] = -0.0
        parts = {n: shard(t, like[n]) if n != "b" else t for n, t in scores.items()}
        for kept in range(51):
            found, wanted = top_masks(parts, kept), top_masks(scores, kept)
            counted += nonzeros(found) == kept
            for name, mask in wanted.items():
                differing += not torch.equal(whole(found[name]), mask)
    large = torch.randn(1500, 1000, generator=generator)
    split = shard(large, distribute_tensor(large, mesh, [Shard(0)]))
    mask = top_masks({"": split}, 10**6)[""]
    return {
        "differing": differing,
        "counted": counted == 4 * 51,
        "large": torch.equal(whole(mask), top_masks({"": large}, 10**6)[""]),
    }


@case
def fsdp_refusals(rank: int, ranks: int) -> dict[str, list[str]]:
    """What cannot be trained is refused in words."""
    mesh = init_device_mesh("cpu", (ranks,))

    def scheduler(model: nn.Module, optimizer: Any = None) -> list[str]:
        given = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)

        def build() -> object:
            return sparsify_fx.Scheduler(model, given, epochs=1, steps_per_epoch=1)

        return error_of(build)

    before = small_net()
    fully_shard(before, mesh=mesh)
    parallel = parallelize_module(
        nn.Sequential(nn.Linear(8, 8)), mesh, {"0": ColwiseParallel()}
    )
    columns = sparsify_fx.apply(nn.Linear(8, 8, bias=False), "lrr", sparsity=0.5)
    fully_shard(columns, mesh=mesh, shard_placement_fn=lambda p: Shard(p.dim() - 1))
    by_hand = sparsify_fx.apply(nn.Linear(8, 8), "lrr", sparsity=0.5)
    program = programs(by_hand)["weight"]
    dense = distribute_tensor(program.get_parameter("dense"), mesh, [Shard(0)])
    program.register_parameter("dense", nn.Parameter(dense))
    living = sparsify_fx.apply(small_net(), "lrr", sparsity=0.5, storage="living")
    fully_shard(living, mesh=mesh)
    early = sparsify_fx.apply(small_net(), "lrr", sparsity=0.5)
    optimizer = torch.optim.SGD(early.parameters(), lr=0.1)
    fully_shard(early, mesh=mesh)
    muon = sparsify_fx.apply(nn.Linear(8, 8, bias=False), "random", sparsity=0.5)
    fully_shard(muon, mesh=mesh)
    return {
        "before": error_of(lambda: sparsify_fx.apply(before, "lrr", sparsity=0.5)),
        "tensor parallel": error_of(
            lambda: sparsify_fx.apply(parallel, "lrr", sparsity=0.5)
        ),
        "columns": scheduler(columns),
        "by hand": scheduler(by_hand),
        "living": scheduler(living),
        "early": scheduler(early, optimizer),
        "muon": scheduler(muon, torch.optim.Muon(muon.parameters(), lr=0.1)),
    }


@case
def fsdp_norms(rank: int, ranks: int) -> bool:
    """With batch norm and data of its own on every rank: equal masks."""
    model = sparsify_fx.apply(small_net(), "lrr-bn", sparsity=0.5)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=3)
    while not scheduler.finished:
        inputs, labels = data(rank)[scheduler.step_count % 3]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
    return same_on_all(digest(masks_of(model)))
