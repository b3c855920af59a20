"""Torch-Pruning on one model, in an environment that has it, torch and this package.

    python -m benchmarks.torch_pruning_worker prune DENSE.pt PRUNED.pt 0.5 global      # or local
    python -m benchmarks.torch_pruning_worker cover torchvision resnet18 --seconds 300 # a line of JSON

Group norm as its own scripts call it: `GroupNormPruner` with `GroupMagnitudeImportance(p=2)`, in small steps until the
multiply-adds are few enough; layers that make outputs are ignored, and attention is told its heads.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsify_fx.budgets.counting import count_multiply_adds

FINE, COARSE = 100, 10  # steps from all channels to none
HEADS = ("head", "rpn.head", "roi_heads", "backbone.fpn")
SHARE = 0.5


def prune_to(
    model: nn.Module,
    inputs: tuple[Any, ...],
    share: float,
    *,
    steps: int,
    everywhere: bool,
) -> float:
    """Prune in place until at most this share of the multiply-adds is left; the share that is."""
    model.eval()
    heads = heads_of(model)
    pruner = tp.pruner.GroupNormPruner(
        model,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=everywhere,
        pruning_ratio=1.0,
        max_pruning_ratio=0.95,  # no layer without channels
        iterative_steps=steps,
        ignored_layers=output_layers(model, inputs),
        num_heads=heads,
        forward_fn=lambda net, given: net(*given),
    )
    before = count_multiply_adds(model, (inputs, {})).total
    left = 1.0
    for _ in range(steps):
        pruner.step()
        # Its own examples write the new sizes into attention's modules by hand.
        for module in model.modules():
            if getattr(module, "qkv", None) in heads:
                module.num_heads = heads[module.qkv]
                module.head_dim = module.qkv.out_features // (3 * module.num_heads)
        left = count_multiply_adds(model, (inputs, {})).total / before
        if left <= share:
            break
    return left


def heads_of(model: nn.Module) -> dict[nn.Module, int]:
    """The heads of attention whose queries, keys and values one layer makes."""
    return {
        module.qkv: module.num_heads
        for module in model.modules()
        if hasattr(module, "num_heads")
        and isinstance(getattr(module, "qkv", None), nn.Linear)
    }


def output_layers(model: nn.Module, inputs: tuple[Any, ...]) -> list[nn.Module]:
    """What its own scripts ignore: layers with as many channels as an output has, and the heads of detectors."""
    sizes = {shape[1] for shape in shapes_of(model, inputs) if len(shape) > 1}
    found = [
        module
        for module in model.modules()
        if getattr(module, "out_features", getattr(module, "out_channels", 0)) in sizes
    ]
    detects = isinstance(inputs[0], list)
    named = model.named_modules() if detects else ()
    return found + [part for name, part in named if name in HEADS]


def shapes_of(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Size]:
    """The shapes of all outputs in evaluation mode."""
    with torch.no_grad():
        outputs = pytree.tree_leaves(model.eval()(*inputs))
    return [value.shape for value in outputs if isinstance(value, Tensor)]


def prune(options: argparse.Namespace) -> dict[str, Any]:
    """A pickled model into another one."""
    model = torch.load(options.model, weights_only=False)
    inputs = (torch.zeros(1, 3, 32, 32),)
    everywhere = options.scope == "global"
    left = prune_to(model, inputs, options.share, steps=FINE, everywhere=everywhere)
    model.zero_grad(set_to_none=True)
    torch.save(model, options.pruned)
    return {"share": left, "version": version("torch-pruning")}


def cover(options: argparse.Namespace) -> dict[str, Any]:
    """Half of the multiply-adds of a model of a library: what came of it."""
    # Libraries of models take seconds to import, and `prune` needs none.
    from sparsify_fx.coverage.build import trials
    from sparsify_fx.coverage.measure import train
    from sparsify_fx.coverage.suites import subjects

    limit = (options.seconds, options.seconds)
    resource.setrlimit(resource.RLIMIT_CPU, limit)
    (subject,) = subjects(options.suite, names=[options.name])
    trial, model = first_that_runs(trials(subject), train)
    before = shapes_of(model, trial.inputs)
    left = prune_to(model, trial.inputs, SHARE, steps=COARSE, everywhere=False)
    after = shapes_of(model, trial.inputs)
    # Detections differ in number; what each one is must not.
    if [shape[1:] for shape in before] != [shape[1:] for shape in after]:
        raise RuntimeError(f"outputs {before} became {after}")
    train(model, trial.training, backward=True)
    torch.optim.SGD(model.parameters(), 1e-3).step()
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise RuntimeError("a parameter is not finite after a step")
    return {"share": left, "version": version("torch-pruning")}


def first_that_runs(
    found: Iterator[Any], train: Callable[..., Any]
) -> tuple[Any, nn.Module]:
    """The smallest inputs that the model takes, and the model in both modes with them."""
    reason = "it takes no input"
    for trial in found:
        model = trial.build()
        try:
            shapes_of(model, trial.inputs)
            train(model, trial.training)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        return trial, model
    raise RuntimeError(f"the original model does not run: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    one = modes.add_parser("prune")
    one.add_argument("model")
    one.add_argument("pruned")
    one.add_argument("share", type=float)
    one.add_argument("scope", choices=("global", "local"))
    two = modes.add_parser("cover")
    two.add_argument("suite")
    two.add_argument("name")
    two.add_argument("--seconds", type=int, default=300, help="of the processor")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work: Callable[..., dict[str, Any]] = {"prune": prune, "cover": cover}[options.mode]
    try:
        found = work(options)
    except Exception as error:
        # Whatever a library raises on a model of another one is what is to be told.
        found = {"error": f"{type(error).__name__}: {str(error).strip()[:200]}"}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
