"""State dicts between plain and rewritten models: what loads, and what is refused with which words."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    set_model_state_dict,
)
from torch.func import functional_call, grad

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import FOR_PLAIN_MODELS
from tests.conftest import batch, effective, small_net, train_step


def made(method: str = "signin", seed: int = 0, storage: str = "auto") -> nn.Sequential:
    return sparsify_fx.apply(
        small_net(seed), method, sparsity=0.5, seed=seed, storage=storage
    )


def reloaded(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    torch.save(state, path)
    return torch.load(path)


@pytest.mark.parametrize("method", ["signin", "random", "str", "dense"])
@pytest.mark.parametrize("assign", [True, False])
def test_a_plain_model_refuses_the_state_of_a_rewritten_one(
    method: str, assign: bool, tmp_path: Path
) -> None:
    """Without care strict=False would load biases and norms alone, silently. The file says so, without sparsify_fx."""
    state = reloaded(made(method).state_dict(), tmp_path / "model.pt")
    plain = small_net(seed=3)
    before = copy.deepcopy(plain.state_dict())
    with pytest.raises(
        RuntimeError, match="for a plain one save sparsify_fx dense_state_dict"
    ) as caught:
        plain.load_state_dict(state, assign=assign)
    first = str(caught.value).split("Unexpected key(s) in state_dict: ")[1]
    assert first.startswith(f'"0.weight_program.{FOR_PLAIN_MODELS}"'), (
        "the words come before the list of keys"
    )
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.weight"):
        small_net().load_state_dict(state, strict=False, assign=assign)
    assert torch.equal(plain[0].weight, before["0.weight"])


def test_a_part_of_a_model_is_refused_as_well() -> None:
    model = nn.Sequential(small_net(), nn.Linear(4, 2))
    sparsify_fx.apply(model, "signin")
    with pytest.raises(RuntimeError, match="for a plain one save sparsify_fx"):
        small_net().load_state_dict(model[0].state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(4, 2).load_state_dict(model[1].state_dict(), strict=False)
    assert sum(key.endswith(FOR_PLAIN_MODELS) for key in model.state_dict()) == 1


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_another_method_is_refused(strict: bool) -> None:
    """Without care strict=False would load the masks and leave the weights as they were."""
    with pytest.raises(
        RuntimeError, match=r"0\.weight: the state holds m, mask, w, the program"
    ) as caught:
        made("random").load_state_dict(made("signin").state_dict(), strict=strict)
    assert (
        "of this model dense, mask: they are of different methods; apply the same one"
        in str(caught.value)
    )
    made("random").load_state_dict(
        sparsify_fx.dense_state_dict(made("signin")), strict=strict
    )


def test_a_dense_checkpoint_loads_as_strictly_as_into_a_plain_model() -> None:
    dense = small_net(seed=5).state_dict()
    short = {key: value for key, value in dense.items() if key != "7.weight"}
    with pytest.raises(
        RuntimeError, match=r'Missing key\(s\) in state_dict: "7\.weight_program\.m"'
    ):
        made().load_state_dict(short)
    with pytest.raises(
        RuntimeError, match=r'Unexpected key\(s\) in state_dict: "8\.weight"'
    ):
        made().load_state_dict({**dense, "8.weight": torch.zeros(1)})
    model = made()
    before = effective(model)
    missing, unexpected = model.load_state_dict(
        {**short, "8.weight": torch.zeros(1)}, strict=False
    )
    assert {key.split("_program")[0] for key in missing} == {"7.weight"}
    assert unexpected == ["8.weight"]
    assert torch.equal(effective(model)["7.weight"], before["7.weight"])
    torch.testing.assert_close(
        effective(model)["0.weight"], dense["0.weight"] * (before["0.weight"] != 0)
    )


def test_states_go_through_files_and_libraries(tmp_path: Path) -> None:
    model = made()
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    expected = effective(model)
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    from_tensors = made(seed=1)
    safetensors.torch.load_model(from_tensors, str(tmp_path / "model.safetensors"))
    distributed = made(seed=1)
    set_model_state_dict(distributed, get_model_state_dict(model))
    assigned = made(seed=1)
    assigned.load_state_dict(
        reloaded(model.state_dict(), tmp_path / "model.pt"), assign=True
    )
    on_meta = made(seed=1).to("meta")
    on_meta.load_state_dict(
        reloaded(model.state_dict(), tmp_path / "model.pt"), assign=True
    )
    emptied = made(seed=1).to("meta").to_empty(device="cpu")
    emptied.load_state_dict(model.state_dict())
    for twin in (from_tensors, distributed, assigned, on_meta, emptied):
        assert all(
            torch.equal(weight, expected[name])
            for name, weight in effective(twin).items()
        )
        assert torch.equal(twin.eval()(batch()[0]), model.eval()(batch()[0]))


def test_a_state_without_the_marking_entries_still_loads() -> None:
    state = made().state_dict()
    old = {
        key: value
        for key, value in state.items()
        if value.numel() and not key.endswith(FOR_PLAIN_MODELS)
    }
    assert set(state) - set(old) == {"0.weight", f"0.weight_program.{FOR_PLAIN_MODELS}"}
    twin = made(seed=1)
    twin.load_state_dict(old)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            effective(twin).values(), effective(made()).values(), strict=True
        )
    )


def test_the_marking_entries_are_no_weights_to_inspection(tmp_path: Path) -> None:
    torch.save(made().state_dict(), tmp_path / "model.pt")
    rows = sparsify_fx.inspect_file(tmp_path / "model.pt").layers
    assert [(row.name, row.shape) for row in rows if row.prunable] == [
        ("0.weight", (8, 3, 3, 3)),
        ("3.weight", (8, 4, 3, 3)),
        ("7.weight", (4, 72)),
    ]
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize("storage", ["full", "living"])
def test_functional_call_takes_the_original_names_too(storage: str) -> None:
    """Without care a weight given under its original name would be ignored."""
    model, (inputs, _) = made(storage=storage).eval(), batch()
    expected = model(inputs)
    state, dense = model.state_dict(), sparsify_fx.dense_state_dict(model)
    assert torch.equal(functional_call(model, state, (inputs,)), expected)
    torch.testing.assert_close(functional_call(model, dense, (inputs,)), expected)
    double = {
        name: 2 * weight if name == "7.weight" else weight
        for name, weight in dense.items()
    }
    plain = small_net().eval()
    plain.load_state_dict(double)
    torch.testing.assert_close(functional_call(model, double, (inputs,)), plain(inputs))
    assert torch.equal(model(inputs), expected), "given for one call only"

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return functional_call(model, {"7.weight": weight}, (inputs,)).square().sum()

    gradient = grad(loss)(dense["7.weight"])
    model.eval()(inputs).square().sum().backward()
    program = programs(model)["7.weight"]
    torch.testing.assert_close(
        program.restored(program.m.grad),
        gradient * program.tensors()["w"] * program.current_mask(),
    )


def test_a_model_on_the_meta_device() -> None:
    """Without care: an error out of the depths of torch, or a mask of whatever was in memory."""
    with torch.device("meta"):
        plain = small_net()
    with pytest.raises(
        LayerError, match=r"meta device.*to_empty.*load_state_dict\(..., assign=True\)"
    ):
        sparsify_fx.apply(plain, "signin")
    assert type(plain[0]) is nn.Conv2d
    plain.load_state_dict(small_net().state_dict(), assign=True)
    model = sparsify_fx.apply(plain, "signin", sparsity=0.5)
    assert torch.isfinite(model(batch()[0])).all()
    model.to("meta")
    for strict in (True, False):
        with pytest.raises(
            RuntimeError,
            match=r"0\.weight: the model is on the meta device, so nobody knows its mask",
        ):
            model.load_state_dict(small_net().state_dict(), assign=True, strict=strict)
