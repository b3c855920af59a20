"""The checks, in order: each looks at one promise, and returns a remark or raises CoverageError with the reason."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.allocations import Balanced
from sparsify_fx.coverage.bench import Bench, in_float64, signature
from sparsify_fx.coverage.export_check import check_onnx
from sparsify_fx.coverage.living_check import check_living
from sparsify_fx.coverage.measure import Tensors, difference, evaluate, train
from sparsify_fx.criteria import CRITERIA, PruningContext
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import CoverageError
from sparsify_fx.masks import nonzeros
from sparsify_fx.programs.owners import current_masks, owned_tensors, programs
from sparsify_fx.programs.program import WeightProgram

BOUND = 1e-5
"""The largest relative difference of outputs."""

EXACT_BOUND = 1e-7
"""The same in float64, for a difference above BOUND in float32: what only rounding makes shrinks by 5e8 there."""

SPARSITY, LATER = 0.9, 0.95


def check_forward(bench: Bench) -> str:
    """Evaluation with masks of ones gives the original's outputs to 1e-5."""
    return _same(bench, bench.original.evaluated, training=False)


def check_train(bench: Bench) -> str:
    """Training mode under the same seed gives the original's outputs and running statistics to 1e-5."""
    return _same(bench, bench.original.trained, training=True)


def _same(bench: Bench, original: Tensors, *, training: bool) -> str:
    """The remark for a difference within BOUND; above it, the two figures that prove it to be rounding of m·w only.

    The plain model with the weights m·w must give the rewritten model's outputs within BOUND, in float32; and the
    difference from the original must vanish in float64.
    """
    # 1. The usual case: m·w is θ but for the last bit, and nothing amplifies that.
    got = _run(bench.rewritten(0.0), bench, training)
    found = difference(original, got)
    if found <= BOUND:
        return f"{found:.1e}"

    # 2. Is it the weights, or the rewriting? The merged model has the weights m·w and none of our code in its forward.
    same = difference(got, _run(bench.plain(), bench, training))

    # 3. Is it rounding? In float64 that is 5e8 times smaller, whereas a wrong weight stays wrong.
    exact = _exact_difference(bench, training)
    if same > BOUND or exact > EXACT_BOUND:
        raise CoverageError(
            f"differs by {found:.1e}, with weights m·w by {same:.1e}, in float64 by {exact:.1e}"
        )
    return f"{found:.1e} by rounding of float32; {same:.1e} with weights m·w, {exact:.1e} in float64"


def _run(model: nn.Module, bench: Bench, training: bool) -> Tensors:
    """The model's outputs in one of its modes."""
    if training:
        return train(model, bench.trial.training)
    return evaluate(model, bench.trial.inputs)


def _exact_difference(bench: Bench, training: bool) -> float:
    """The difference of a fresh original from its rewritten self in float64; then the bench starts again."""
    # The bench gives its model up meanwhile: two factors in float64 take four times the memory of the weights.
    bench.clear()
    try:
        return _difference_in_float64(bench, training)
    finally:
        bench.start_again()


def _difference_in_float64(bench: Bench, training: bool) -> float:
    """In a function of its own, whose end frees the model before the bench builds its next one."""
    model, inputs, targets = in_float64(bench)
    before = train(model, targets) if training else evaluate(model, inputs)
    sparsify_fx.apply(model, "signin", sparsity=0.0, allocation="balanced")
    return difference(
        before, train(model, targets) if training else evaluate(model, inputs)
    )


def check_gradients(bench: Bench) -> str:
    """Every factor gets a finite gradient where its dense weight gets one, exactly zero at masked entries."""
    model = bench.rewritten(SPARSITY)
    _check_budget(model, SPARSITY)
    train(model, bench.trial.training, backward=True)
    unused = 0
    for name, program in programs(model).items():
        # Weights that the original does not use, such as those of a head left out in training, owe no gradient.
        if name not in bench.original.gradients:
            unused += 1
            continue
        mask = program.current_mask()
        assert mask is not None
        for factor, tensor in program.factor_tensors().items():
            _check_gradient(
                f"{name} ({factor})", tensor.grad, mask, bench.original.gradients[name]
            )
    check_living(model, bench.trial.training, BOUND)
    model.zero_grad(set_to_none=True)
    return f"{unused} weights without a gradient in the original too" if unused else ""


def _check_gradient(
    name: str, gradient: Tensor | None, mask: Tensor, finite: bool
) -> None:
    """CoverageError unless the gradient is there, finite if the original's is, and exactly zero where masked."""
    if gradient is None:
        raise CoverageError(f"{name} gets no gradient, the original weight gets one")
    if finite and not bool(torch.isfinite(gradient).all()):
        raise CoverageError(
            f"{name} gets a gradient with NaN or Inf, the original weight a finite one"
        )
    # Exactly: the least of a gradient would move a masked factor under momentum, and a regrown weight with it.
    if bool(gradient[mask == 0].any()):
        raise CoverageError(f"{name} gets a gradient at masked entries")


def _check_budget(model: nn.Module, sparsity: float) -> None:
    """CoverageError when the masks keep another number of weights than the sparsity asks for."""
    masks = _masks(model)
    total = sum(mask.numel() for mask in masks.values())
    wanted = total - round(sparsity * total)
    if abs(nonzeros(masks) - wanted) > 1:
        raise CoverageError(
            f"{nonzeros(masks)} of {total} weights are kept, {wanted} were asked for"
        )


def _masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of all programs by the name of their weight."""
    return current_masks(programs(model))


def check_deepcopy(bench: Bench) -> str:
    """A deep copy has the same bits and outputs, and shares no memory."""
    model, outputs = bench.ready_to_copy(SPARSITY)
    copied = copy.deepcopy(model)
    ours = {tensor.data_ptr() for tensor in model.parameters()}
    # Tensors without entries have no memory: their address is 0 in both.
    theirs = {tensor.data_ptr() for tensor in copied.parameters() if tensor.numel()}
    if ours & theirs:
        raise CoverageError("the copy shares memory with the model")
    return _check_copy(bench, outputs, copied)


def check_pickle(bench: Bench) -> str:
    """The model comes back from torch.save and torch.load with the same bits and outputs."""
    file = bench.folder / "model.pt"
    model, outputs = bench.ready_to_copy(SPARSITY)
    torch.save(model, file)
    # Mapped, so that the copy's weights count as the file's pages and not against the limit on memory.
    try:
        return _check_copy(
            bench, outputs, torch.load(file, weights_only=False, mmap=True)
        )
    finally:
        file.unlink()


def _check_copy(bench: Bench, outputs: Tensors, copied: nn.Module) -> str:
    """CoverageError unless classes, bits and outputs of a copy are those of the model on the bench."""
    # One after the other, since equal outputs on one input do not prove that every bit is the same.
    for here, there in itertools.zip_longest(bench.model.modules(), copied.modules()):
        if _class_of(here) is not _class_of(there):
            raise CoverageError(f"the copy of {type(here).__name__} has another class")
    state = copied.state_dict()
    for key, value in bench.model.state_dict().items():
        if isinstance(value, Tensor) and not _same_bits(value, state.get(key)):
            raise CoverageError(f"{key} of the copy differs")
    found = difference(outputs, evaluate(copied, bench.trial.inputs))
    if found > BOUND:
        raise CoverageError(f"the outputs of the copy differ by {found:.1e}")
    return ""


def _class_of(module: nn.Module) -> type[nn.Module]:
    """The class; torch.fx gives every weight program one of its own."""
    return WeightProgram if isinstance(module, WeightProgram) else type(module)


def check_prune(bench: Bench) -> str:
    """Pruned on to 0.95 by magnitude: the exact number stays, pruned entries are +0.0, the others keep their bits."""
    model = bench.rewritten(SPARSITY)
    # Of what is alive, as schedules prune: an entry that is masked must not come back however large its θ is.
    before = {name: program.effective() for name, program in programs(model).items()}
    alive = _masks(model)
    kept = round((1 - LATER) * sum(mask.numel() for mask in alive.values()))
    context = PruningContext(
        weights=before,
        generator=torch.Generator().manual_seed(0),
        kept=kept,
        allocation=Balanced(),
        alive=alive,
    )
    masks = choose_masks(CRITERIA["magnitude"], context)
    for name, program in programs(model).items():
        # Without a copy, so the checks that follow see this model.
        program.set_mask(masks[name])
        zero = torch.zeros((), dtype=before[name].dtype)
        if not _same_bits(
            program.effective(), torch.where(masks[name].bool(), before[name], zero)
        ):
            raise CoverageError(
                f"{name}: pruning changed weights that stay, or left others"
            )
    return ""


def check_merge(bench: Bench) -> str:
    """Merged weights are θ·mask bit for bit, classes are the original ones, and the outputs stay."""
    model = bench.rewritten(SPARSITY)
    outputs = evaluate(model, bench.trial.inputs)
    # Chosen instead of multiplied: a negative θ times 0 is -0.0, which a sparse file would have to store.
    weights = {
        name: torch.where(mask.bool(), programs(model)[name].theta(), torch.zeros(()))
        for name, mask in _masks(model).items()
    }
    bench.plain()
    # With duplicates: a tied weight is found under each of its names, of which the program has only one.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in weights.items():
        if not _same_bits(weight, parameters[name]):
            raise CoverageError(f"{name} is not θ·mask after the merge")
    odd = [
        name
        for name, module in model.named_modules()
        if type(module) is not bench.original.classes.get(name)
    ]
    if odd:
        raise CoverageError(f"{odd[0]} has another class after the merge")
    found = difference(outputs, evaluate(model, bench.trial.inputs))
    if found > BOUND:
        raise CoverageError(f"merging changes the outputs by {found:.1e}")
    return ""


def check_keys(bench: Bench) -> str:
    """The merged state dict has the original's keys in their order, with shapes and dtypes."""
    for here, there in itertools.zip_longest(
        signature(bench.plain()), bench.original.keys
    ):
        if here != there:
            raise CoverageError(f"{here} stands in the place of {there}")
    left = [
        name for name, module in bench.model.named_modules() if owned_tensors(module)
    ]
    if left:
        raise CoverageError(f"{left[0]} is still rewritten")
    return ""


def _same_bits(a: Tensor, b: Tensor | None) -> bool:
    """Equal, zeros of the same sign."""
    if b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    # As bytes: `torch.equal` takes -0.0 for 0.0, and NaN for another number than itself.
    if a.is_floating_point():
        return torch.equal(_bits(a), _bits(b))
    return torch.equal(a, b)


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in order of its entries."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


# In this order since each leaves the model as the next one wants it: dense, then pruned, then further, then merged.
CHECKS: dict[str, Callable[[Bench], str]] = {
    "forward": check_forward,
    "train": check_train,
    "gradients": check_gradients,
    "deepcopy": check_deepcopy,
    "pickle": check_pickle,
    "prune": check_prune,
    "merge": check_merge,
    "keys": check_keys,
    "onnx": check_onnx,
}
"""Every check by its name, in the order in which they run."""
