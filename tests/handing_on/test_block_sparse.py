"""Block masks in torch's BSR tensors, and n:m masks in its 2:4 format, as far as a CPU allows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

import sparsify_fx
from sparsify_fx import handing_on
from sparsify_fx.errors import ExportError
from tests.handing_on.test_handing_on import linear_net, sparse_net


def block_net(granularity: str = "block:16x16") -> nn.Sequential:
    """Two layers of one size, so that blocks of both are alike in size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))
    sparsify_fx.apply(
        model, "magnitude", schedule="at-init", granularity=granularity, sparsity=0.75
    )
    return sparsify_fx.merge(model).eval()


@pytest.mark.parametrize("block", [(16, 16), (32, 32)])
def test_blocks_multiply_as_dense_weights_do(block: tuple[int, int]) -> None:
    model = block_net(f"block:{block[0]}x{block[1]}")
    inputs = torch.randn(3, 128)
    expected = model(inputs).detach()
    report = handing_on.to_block_sparse(model, block)
    assert set(report.layers) == {"0.weight", "2.weight"}
    for index in (0, 2):
        weight = model[index].weight
        assert weight.layout is torch.sparse_bsr
        assert tuple(weight.values().shape[1:]) == block
        # None of the blocks that are stored is of zeros.
        assert bool((weight.values() != 0).any(2).any(1).all())
        share = weight.values().numel() / weight.numel()
        assert report.layers[f"{index}.weight"] == pytest.approx(share)
    assert torch.allclose(model(inputs), expected, atol=1e-5)
    stored = sum(share for share in report.layers.values()) / 2
    assert stored < 0.5


def test_blocks_that_torch_cannot_multiply_by_are_told() -> None:
    model = block_net("block:32x1")
    assert len(handing_on.block_sparse_layers(model, (32, 1)).layers) == 2
    with pytest.raises(
        ExportError, match=r"cannot multiply by 0\.weight in blocks on cpu"
    ):
        handing_on.to_block_sparse(model, (32, 1))
    assert model[0].weight.layout is torch.strided


def test_why_a_layer_stays_dense_is_told() -> None:
    scattered = handing_on.block_sparse_layers(linear_net(sparsity=0.5), (16, 16))
    assert not scattered.layers
    assert "0 of its 4096 zeros lie in blocks of zeros" in str(scattered)
    conv = handing_on.block_sparse_layers(sparse_net(), (4, 4))
    assert conv.reasons["0.weight"].startswith("a Conv2d; torch multiplies by blocks")
    odd = handing_on.block_sparse_layers(block_net(), (48, 16))
    assert odd.reasons["0.weight"] == "128 x 128 is no multiple of 48 x 16"


@pytest.mark.parametrize("block", [(0, 16), (16,), (16.0, 16)])
def test_what_is_no_block_is_refused(block: tuple[int, int]) -> None:
    with pytest.raises(ExportError, match="expected rows and columns of at least 1"):
        handing_on.block_sparse_layers(block_net(), block)


def test_a_model_without_such_blocks_stays_as_it_is() -> None:
    model = linear_net(sparsity=0.5)
    with pytest.raises(ExportError, match="prune with granularity='block:16x16'"):
        handing_on.to_block_sparse(model, (16, 16))
    assert model[0].weight.layout is torch.strided
    rewritten = sparsify_fx.apply(nn.Sequential(nn.Linear(32, 32)), "gmp")
    with pytest.raises(ExportError, match="still rewritten"):
        handing_on.to_block_sparse(rewritten, (16, 16))


def test_masks_of_2_of_4_go_through_the_format_of_the_kernels() -> None:
    model = linear_net(granularity="2:4", sparsity=0.5, allocation="global")
    assert handing_on.semi_structured_layers(model).layers == ("0.weight", "2.weight")
    weight = model[0].weight.detach().half()
    values, places = sparse_semi_structured_from_dense_cutlass(weight)
    assert values.numel() == weight.numel() // 2
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, places), weight)
