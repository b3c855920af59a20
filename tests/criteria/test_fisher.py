"""fisher and woodfisher against loops over single samples and dense inverses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.criteria import Fisher, WoodFisher
from sparsify_fx.errors import MethodError
from tests.criteria.common import batches_of, net_of, scores_of, weights_of

both_nets = pytest.mark.parametrize("kind", ["bn", "plain"])


def single_gradients(model: nn.Module) -> list[dict[str, Tensor]]:
    """One ordinary backward pass for each sample, in evaluation mode."""
    twin = copy.deepcopy(model).eval()
    found = []
    for inputs, labels in batches_of():
        for i in range(len(inputs)):
            twin.zero_grad()
            F.cross_entropy(twin(inputs[i : i + 1]), labels[i : i + 1]).backward()
            grads = {name: twin.get_parameter(name).grad for name in weights_of(model)}
            found.append(
                {name: grad.clone() for name, grad in grads.items() if grad is not None}
            )
    return found


@both_nets
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_fisher_is_the_mean_square_of_single_gradients(kind: str, chunk: int) -> None:
    model = net_of(kind)
    scores, singles = scores_of(Fisher(chunk), model), single_gradients(model)
    for name, weight in weights_of(model).items():
        mean = torch.stack([gradient[name] for gradient in singles]).square().mean(0)
        torch.testing.assert_close(
            scores[name], 0.5 * weight.square() * mean, rtol=1e-9, atol=1e-16
        )


@both_nets
@pytest.mark.parametrize("block", [1, 7, 50, 10_000])
@pytest.mark.parametrize("samples", [256, 5])
def test_woodfisher_is_the_dense_inverse_of_each_block(
    kind: str, block: int, samples: int
) -> None:
    model = net_of(kind)
    scores = scores_of(
        WoodFisher(block=block, samples=samples, damping=1e-3, chunk=4), model
    )
    singles = single_gradients(model)[:samples]
    for name, weight in weights_of(model).items():
        rows = torch.stack([gradient[name].flatten() for gradient in singles])
        fisher = rows.T @ rows / len(singles) + 1e-3 * torch.eye(
            weight.numel(), dtype=torch.float64
        )
        for start in range(0, weight.numel(), block):
            part = slice(start, start + block)
            inverse = torch.linalg.inv(fisher[part, part]).diagonal()
            expected = weight.flatten()[part].square() / (2 * inverse)
            torch.testing.assert_close(
                scores[name].flatten()[part], expected, rtol=1e-4, atol=1e-10
            )


def test_pruned_weights_take_no_part_in_the_fisher_information() -> None:
    model = net_of("plain")
    alive = {
        name: torch.ones_like(weight, dtype=torch.uint8)
        for name, weight in weights_of(model).items()
    }
    alive["5.weight"][:, ::2] = 0
    with torch.no_grad():
        model.get_parameter("5.weight").mul_(alive["5.weight"])
    scores = scores_of(WoodFisher(block=24, damping=1e-3), model, alive=alive)[
        "5.weight"
    ]
    living = alive["5.weight"].bool().flatten()
    rows = torch.stack(
        [gradient["5.weight"].flatten()[living] for gradient in single_gradients(model)]
    )
    fisher = rows.T @ rows / len(rows) + 1e-3 * torch.eye(
        int(living.sum()), dtype=torch.float64
    )
    weight = weights_of(model)["5.weight"].flatten()[living]
    expected = weight.square() / (2 * torch.linalg.inv(fisher).diagonal())
    torch.testing.assert_close(
        scores.flatten()[living], expected, rtol=1e-4, atol=1e-10
    )


def test_woodfisher_reads_no_more_samples_than_it_needs() -> None:
    read = []

    class Endless:
        def __iter__(self) -> object:
            while True:
                read.append(1)
                yield batches_of()[0]

    scores_of(WoodFisher(samples=9), net_of("plain"), batches=Endless())
    assert len(read) == 2


def test_wrong_options_and_targets_are_explained() -> None:
    with pytest.raises(MethodError, match="damping > 0"):
        WoodFisher(damping=0.0)
    with pytest.raises(MethodError, match="chunk=0 must be a whole number >= 1"):
        Fisher(chunk=0)
    (inputs, labels), *_ = batches_of()
    with pytest.raises(MethodError, match="an entry for every input"):
        scores_of(Fisher(), net_of("plain"), batches=[(inputs, labels[:2])])
