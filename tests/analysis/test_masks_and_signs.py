"""Signs, overlap, sparsity and batch-norm scales on planted cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_fx.analysis import analyze
from sparsify_fx.analysis.batch_norm import describe_scales, reestimate, scale_names
from sparsify_fx.analysis.overlap import mask_overlap, total_overlap
from sparsify_fx.analysis.sign_history import kept_signs, settled_after, sign_switches
from sparsify_fx.analysis.signs import sign_flips, sign_flips_by_layer, without_sign
from sparsify_fx.analysis.sparsity import layer_sparsity
from sparsify_fx.errors import AnalysisError
from tests.conftest import batch, small_net


def test_planted_flips_are_counted_by_layer_and_in_total() -> None:
    before = {"a": torch.randn(50, 20).sign(), "b": torch.ones(10)}
    mask = {"a": torch.zeros(50, 20, dtype=torch.uint8), "b": torch.ones(10)}
    mask["a"][:, :7] = 1
    after = {name: weight.clone() for name, weight in before.items()}
    after["a"][:13] *= -2.0  # 13 rows, of which 7 columns count
    after["b"][0] = 0.0  # no sign is no flip
    before["b"][1] = 0.0
    layers = sign_flips_by_layer(before, after, mask)
    assert (layers["a"].flips, layers["a"].weights) == (91, 350)
    assert (layers["b"].flips, layers["b"].weights) == (0, 10)
    total = sign_flips(before, after, mask)
    assert (total.flips, total.weights, total.share) == (91, 360, 91 / 360)
    assert without_sign(before, mask) == 1


def test_planted_histories_settle_and_switch_where_they_should() -> None:
    planted = torch.tensor(  # point by weight: never, at 1, at 3, back and forth, through zero, from zero
        [
            [1.0, -1, 1, 1, 2, 0],
            [3.0, 1, 1, -1, 0, 0],
            [1.0, 2, 1, 1, 5, -1],
            [1.0, 1, -1, -1, 1, -1],
            [0.5, 1, -9, 1, 1, -1],
        ]
    )
    history = [
        {"w": torch.cat([row, torch.tensor([-1.0, 1.0])])} for row in planted
    ]  # two more that are pruned
    mask = {"w": torch.tensor([1, 1, 1, 1, 1, 1, 0, 0], dtype=torch.uint8)}
    signs = kept_signs(history, mask)
    assert signs.shape == (5, 6)
    assert settled_after(signs).tolist() == [0, 1, 3, 4, 0, 0]
    assert sign_switches(signs).tolist() == [0, 1, 1, 4, 0, 0]


def test_overlap_of_equal_disjoint_and_random_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda: (torch.rand(200, 200, generator=generator) < 0.1).to(torch.uint8)  # noqa: E731
    a, b = draw(), draw()
    same, other = (
        mask_overlap({"w": a}, {"w": a})["w"],
        mask_overlap({"w": a}, {"w": 1 - a})["w"],
    )
    assert (same.iou, other.iou) == (1.0, 0.0)
    assert same.both == int(a.sum())
    chance = mask_overlap({"w": a}, {"w": b})["w"]
    deviation = (chance.by_chance * 0.9 * 0.9) ** 0.5  # hypergeometric
    assert abs(chance.both - chance.by_chance) < 4 * deviation
    assert abs(chance.iou - chance.chance_iou) < 0.005
    total = total_overlap([same, chance])
    assert total.both == same.both + chance.both
    assert total.weights == 80_000
    with pytest.raises(ValueError, match="one model"):
        mask_overlap({"w": a}, {"v": a})


def test_sparsity_and_collapse() -> None:
    found = layer_sparsity({"a": torch.zeros(4), "b": torch.tensor([1, 0, 1, 1])})
    assert (found["a"].collapsed, found["a"].sparsity) == (True, 1.0)
    assert (found["b"].collapsed, found["b"].sparsity) == (False, 0.25)


def test_planted_scales_are_found_by_type() -> None:
    model = nn.Sequential(small_net(), nn.Sequential(nn.BatchNorm1d(4, affine=False)))
    assert scale_names(model) == ["0.1.weight", "0.4.weight"]
    assert scale_names(nn.BatchNorm1d(3)) == ["weight"]
    with torch.no_grad():
        model[0][1].weight[:3] = 0.0
        model[0][1].weight[3] = -2.0
    scales = describe_scales(model.state_dict()["0.1.weight"])
    assert (scales.channels, scales.vanished, scales.negative) == (8, 3, 1)
    assert scales.quantiles == (-2.0, 0.0, 0.5, 1.0, 1.0)


def test_reestimated_statistics_are_those_of_the_data() -> None:
    net, data = small_net(), [batch(0), batch(1)]
    net[1].running_mean.fill_(50.0)
    momentum = net[1].momentum
    reestimate(net, data)
    with torch.no_grad():
        outputs = [net[0](inputs) for inputs, _ in data]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variance = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    assert torch.allclose(net[1].running_mean, mean, atol=1e-6)
    assert torch.allclose(net[1].running_var, variance, rtol=1e-5)
    assert net[1].momentum == momentum
    assert not any(module.training for module in net.modules())
    with pytest.raises(AnalysisError, match="at least one batch"):
        reestimate(net, [])
    plain = nn.Linear(2, 2)
    assert reestimate(plain, []) is plain


def test_the_old_name_of_a_result_still_leads_to_it() -> None:
    with pytest.warns(DeprecationWarning, match="Analysed is now Analyzed"):
        assert analyze.Analysed is analyze.Analyzed
