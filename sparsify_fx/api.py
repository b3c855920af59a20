"""apply, merge and dense_state_dict: the way in and the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn

from sparsify_fx.acceleration import (
    DENSE,
    accelerate,
    check_kernels,
    check_takers,
    decelerate,
    tried,
)
from sparsify_fx.allocations import with_min_per_layer
from sparsify_fx.budgets import DEFAULT_SPARSITY, Parameters, Request, find_budget
from sparsify_fx.budgets.parameters import found_sparsity
from sparsify_fx.criteria import FindsSparsity
from sparsify_fx.distributed.data_parallel import (
    ignore_masks_in_ddp,
    refuse_early_wrapping,
    refuse_sharded,
    restore_ddp,
)
from sparsify_fx.distributed.ranks import together
from sparsify_fx.errors import LayerError
from sparsify_fx.granularity.find import in_groups
from sparsify_fx.parameterizations import Dense, fitted
from sparsify_fx.passes import Merge
from sparsify_fx.passes.prepare import assigned, prepare
from sparsify_fx.passes.transaction import untouched_on_error
from sparsify_fx.plan import Inputs, Plan
from sparsify_fx.programs.owners import owned_tensors, program_of, qualified
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.progress import Progress
from sparsify_fx.programs.selection import Layer, Selection, is_finite, select_layers
from sparsify_fx.recipe import find_method
from sparsify_fx.scheduler.first_masks import check_budget, first_masks, write_moved
from sparsify_fx.scheduler.storage import masks_change, storable, store, unwrapped
from sparsify_fx.scheduler.unfinished import warn_unfinished
from sparsify_fx.schedules import Budget
from sparsify_fx.sharding import make_whole, reshard, whole

M = TypeVar("M", bound=nn.Module)


@together("apply")
def apply(
    model: M,
    method: str = "signin",
    *,
    sparsity: float = DEFAULT_SPARSITY,
    batches: Iterable[Any] | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    include: Selection = None,
    exclude: Selection = None,
    seed: int = 0,
    min_per_layer: int | float | None = None,
    storage: str = "auto",
    kernels: str = DENSE,
    budget: Any = "parameters",
    example_inputs: Any = None,
    granularity: str = "weight",
    reduction: str | None = None,
    **axes: Any,
) -> M:
    """Rewrite `model` in place for sparse training and return it.

    Every weight of the supported layers (convolutions, transposed convolutions, linear, bilinear, recurrent and
    attention layers and their subclasses) becomes a weight program; biases, norms and embeddings stay as they are.
    Methods that prune at initialization prune now. Build the optimizer afterwards.

    Several calls on parts of one model (`apply(net.backbone, ...)`, `apply(net, ..., include="head")`) give each part a
    plan of its own; one Scheduler over the whole follows them all.

    Args:
        model: any `nn.Module`, or a traced `torch.fx.GraphModule`.
        method: a registered name, or a sum such as "lrr+signin"; see `sparsify-fx methods`.
        sparsity: the fraction of prunable weights that end as zeros, in [0, 1); exact to the weight. The method "dense"
            has no masks, and "keep-zeros" takes what it finds: they do not use it.
        batches: (inputs, targets) pairs, for criteria that need data.
        loss_fn: loss_fn(outputs, targets) -> scalar, for criteria that need a loss.
        include: module name patterns or module types to prune; None: all supported layers. Embeddings and other
            matrices are pruned only when they are named here.
        exclude: module name patterns or module types to leave alone.
        seed: of random criteria; the same seed gives the same mask on every device.
        min_per_layer: weights that no layer falls below, a number (16) or a share of the layer (0.01).
        storage: "full": factors, and what optimizers keep of them, have the shape of the weight; "living": they are
            vectors of the entries that the mask lets live, and a step costs what those cost; "auto": living where the
            masks of the start stay and each entry is made by itself, full as soon as an optimizer needs whole matrices
            (Muon, Shampoo, Adafactor). Results are the same but for rounding; checkpoints load into either.
        kernels: "dense": layers compute with their whole weight; "auto": those whose sparse step is faster take kernels
            that skip zeros, on a CPU, and all that can be are in living storage; "always": all that can. See
            `accelerate`.
        budget: what the target is of: "parameters": `sparsity` is the fraction of weights that go; "macs": that of
            multiply-adds, for which weights go until enough are saved; or an object of `sparsify_fx.budgets`, such as
            `MACs(left=50_000_000)` or `Latency(milliseconds=5)`, which finds the sparsity by itself.
        example_inputs: for those: one sample as the model takes it (a tensor, a tuple of arguments, a dict by name);
            with kernels="auto" a batch, at which layers decide before the training; the model is run on it.
        granularity: what is pruned as one: "weight"; "channel", "channel:8" (multiples of 8 stay), "head", found at the
            `example_inputs` with all that is coupled with them; "block:32x1"; "2:4". At most as many weights stay as
            are asked for, within one group.
        reduction: the score of a group is the "l2", "sum", "max" or "mean" of its weights' scores, or "relative": their
            l2 by that of the groups beside it, of the same width or, for blocks, of the same layer. None: "relative"
            for channels and heads, "mean" for blocks.
        axes: criterion=, allocation=, parameterization=, penalty=, schedule=, rewind=, actions= replace those of the
            method: an object, a name ("uniform"), or a mapping ({"name": "cycles", "keep": 0.5}). A parameterization
            can be given by layer: {"fc": Product(beta=2.0), "*": "dense"}; see `ByLayer`.

    Raises:
        UnknownNameError: an unknown method or axis, with the nearest known name.
        SparsityError: a sparsity outside [0, 1), or one that keeps nothing; a budget that cannot be met.
        LayerError: no prunable weight, or one that cannot be rewritten.
        MethodError: contradictory axes, or a criterion without its inputs.
        RuntimeLibraryError: kernels that the package was installed without.
        After an error the model is as it was.

    >>> model = apply(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), method="random", sparsity=0.75)
    >>> sum(int((layer.weight != 0).sum()) for layer in (model[0], model[2]))
    20
    """
    # 1. The method, with the axes that replace its own, and the weights that it is for.
    check_kernels(kernels, storage)
    found = find_method(method, axes)
    resolved = found.resolved()
    resolved = replace(
        resolved, allocation=with_min_per_layer(resolved.allocation, min_per_layer)
    )
    # A shard is no whole tensor to rank; DDP, which took the parameters that factors replace, would average those.
    refuse_sharded(model)
    if resolved.parameterization != Dense():
        refuse_early_wrapping(model)
    layers = _prunable(model, include, exclude)
    asked = "allocation" in axes or min_per_layer is not None
    resolved = in_groups(
        granularity, reduction, model, layers, resolved, example_inputs, asked
    )
    inputs = Inputs(batches, loss_fn)
    target, met = find_budget(budget), None
    if isinstance(resolved.criterion, FindsSparsity):
        sparsity = found_sparsity(resolved.criterion, layers, target)
    elif target != Parameters():
        request = Request(
            model, found.name, layers, resolved, sparsity, seed, inputs, example_inputs
        )
        met = target.meet(request)
        sparsity = met.sparsity
        resolved = replace(resolved, allocation=met.allocation)

    # 2. Refuse what does not fit before a weight is scored, since scores may take long.
    how = fitted(resolved.parameterization, sparsity)
    resolved = replace(resolved, parameterization=how)
    chosen = assigned(how, layers)
    weights = Budget(sum(layer.weight.numel() for layer in layers.values()), sparsity)
    names = tuple(layers)
    changes = masks_change(resolved.schedule, weights)
    plan = Plan(
        found.name, resolved, float(sparsity), seed, names, storage, changes, met
    )
    check_budget(plan, layers, weights, inputs)

    # 3. Nothing of the model has changed until the masks are there, and `prepare` takes itself back when it fails.
    masks, moved = first_masks(model, plan, layers, weights, inputs)
    fixed = not changes or kernels != DENSE
    living = storable(storage, masks, chosen, fixed=fixed)
    stored = {name: layers[name].weight for name in living}
    living = unwrapped(living, stored, storage)
    check_takers(kernels, (layers[name] for name in living))
    tried_inputs = None if kernels == DENSE else example_inputs
    with _taken_back(model, layers, tried_inputs):
        progress = Progress()
        programs = prepare(model, layers, masks, resolved.parameterization)
        for program in programs.values():
            # One object for all of them: whoever counts a step counts it for the whole part.
            program.plan, program.progress = plan, progress
        store(programs, living)
        if kernels != DENSE:
            accelerate(model, example_inputs, kernels=kernels)
    write_moved(programs, moved)
    # For the Scheduler, which may be built far from where the data are.
    plan.inputs[model] = inputs
    ignore_masks_in_ddp(model)
    return model


@contextmanager
def _taken_back(
    model: nn.Module, layers: dict[str, Layer], example_inputs: Any
) -> Iterator[None]:
    """After an error of the model at these inputs it is as it was, with its weights; nothing is done without them."""
    if example_inputs is None:
        yield
        return
    # What fails in the model as it is fails before anything changes. Images side by side may make it fail too.
    tried(model, example_inputs)
    kept = [layer.weight.detach().clone() for layer in layers.values()]
    with untouched_on_error(model):
        try:
            yield
        except BaseException:
            for layer, values in zip(layers.values(), kept, strict=True):
                # Whatever its shape is now: a parameter may hold living entries alone.
                layer.weight.data = values
            raise


def _prunable(
    model: nn.Module, include: Selection, exclude: Selection
) -> dict[str, Layer]:
    """The selected layers; LayerError for weights without values, or with NaN or Inf."""
    layers = select_layers(model, include, exclude)
    absent = [name for name, layer in layers.items() if layer.weight.is_meta]
    if absent:
        raise LayerError(
            f"{len(absent)} weights are on the meta device and have no values, for instance {absent[0]}: give them "
            "some first, by model.to_empty(...) and an initialization or by model.load_state_dict(..., assign=True)"
        )
    # torch ranks NaN and Inf above every number: they would be kept for good, in place of weights that matter.
    broken = [name for name, layer in layers.items() if not is_finite(layer)]
    if broken:
        raise LayerError(
            f"weights hold NaN or Inf: {', '.join(broken)}; initialize or reload them first"
        )
    return layers


def merge(model: M) -> M:
    """Plain weights again, in place: original classes and keys, exact zeros where pruned; the model comes back.

    merged = θ ⊙ mask. A plain model is left alone. Tied weights stay tied. A model that does not have the sparsity yet
    that `apply` was asked for is told by an UnfinishedWarning. One that `fully_shard` has spread over processes is made
    whole on each of them, weight by weight; every process must call it.

    >>> model = apply(nn.Linear(4, 2), method="random", sparsity=0.5)
    >>> type(merge(model)).__name__, list(model.state_dict())
    ('Linear', ['weight', 'bias'])
    """
    warn_unfinished(model, "the model is merged")
    make_whole(model)
    decelerate(model)
    Merge()(model)
    restore_ddp(model)
    return model


def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The merged weights and all other state under the original keys and in their order; the model is not touched.

    A model that does not have the sparsity yet that `apply` was asked for is told by an UnfinishedWarning. Sharded
    weights are gathered one by one; every process must call it.

    >>> model = apply(nn.Linear(4, 2), method="signin", sparsity=0.5)
    >>> list(dense_state_dict(model))
    ['weight', 'bias']
    """
    warn_unfinished(model, "the dense weights are taken")
    reshard(model)
    return effective_state_dict(model)


def effective_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """`dense_state_dict` at any time of a training."""
    left = model.state_dict()
    result: dict[str, Any] = {}
    effective: dict[int, Tensor] = {}
    # Through the tables of the modules, whose order is that of a plain state dict, and under all names of shared
    # modules.
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, WeightProgram):
            continue
        # An owner keeps an entry for a computed tensor, empty, in its old place.
        for name in (*module._parameters, *module._buffers):
            key = qualified(prefix, name)
            if name in owned_tensors(module):
                program = program_of(module, name)
                # Tied weights stay one tensor, so that a saver finds the tie.
                if id(program) not in effective:
                    effective[id(program)] = program.effective()
                result[key] = effective[id(program)]
            # Buffers that are not persistent are in no state dict.
            elif key in left:
                result[key] = whole(left[key])

    # What modules keep as extra state has no entry in their tables. That of weight programs is not the plain model's.
    computed = tuple(
        f"{prefix}."
        for prefix, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, WeightProgram)
    )
    others = {
        key: whole(value) if isinstance(value, Tensor) else value
        for key, value in left.items()
        if key not in result and not key.startswith(computed)
    }
    return result | others
