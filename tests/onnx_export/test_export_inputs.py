"""Inputs by name: keyword arguments of forward, their names in the file, and targets that are no paths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from sparsify_fx import export
from sparsify_fx.errors import ExportError

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(
        self,
        weight: Tensor,
        *more: Tensor,
        shift: Tensor | None = None,
        **others: Tensor,
    ) -> Tensor:
        out = weight @ self.weight + sum(more) - others["scale"]
        return out if shift is None else out + 2 * shift


def names(path: Path) -> list[str]:
    return [item.name for item in onnx.load(path).graph.input]


def some(*values: float) -> list[Tensor]:
    return [torch.full((3, 4), float(value)) for value in values]


def test_inputs_have_the_names_of_parameters_in_the_order_given(tmp_path: Path) -> None:
    a, b, c, d, e = some(1, 2, 3, 4, 5)
    path = tmp_path / "model.onnx"
    report = export(Mixed(), path, (a, b, c, {"scale": d, "shift": e}))
    assert names(path) == ["weight", "more_0", "more_1", "scale", "shift"]
    assert report.max_rel_difference is not None
    export(
        Mixed(),
        path,
        {"scale": a, "weight": b},
        verify_inputs={"weight": c, "scale": d},
        dynamic_shapes={"weight": {0: "n"}, "scale": {0: "n"}},
    )
    assert names(path) == ["scale", "weight"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"weight": None},
            r"example_inputs\['weight'\]: expected a Tensor, got NoneType; leave it out",
        ),
        (
            ({"weight": torch.ones(2, 4)}, torch.ones(2, 4)),
            r"example_inputs\[0\]: expected a Tensor, got dict",
        ),
        ({}, "got nothing"),
        (({},), "got nothing"),
        ({1: torch.ones(2, 4)}, "the key 1 is no name"),
        ({"weigth": torch.ones(2, 4)}, "does not take these example_inputs .*weigth"),
        (
            (torch.ones(2, 4), (torch.ones(1),)),
            r"example_inputs\[1\]: expected a Tensor, got tuple",
        ),
    ],
)
def test_odd_inputs_are_refused_in_words(
    tmp_path: Path, given: Any, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export(Mixed(), tmp_path / "model.onnx", given)
    assert not list(tmp_path.iterdir())


def test_inputs_to_verify_with_are_for_the_same_parameters(tmp_path: Path) -> None:
    (a,) = some(1)
    with pytest.raises(
        ExportError,
        match=r"verify_inputs hold 1 positional .* example_inputs 0 positional",
    ):
        export(
            Mixed(), tmp_path / "model.onnx", {"weight": a, "scale": a}, verify_inputs=a
        )


def test_open_files_are_refused_in_words(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        for target in (io.BytesIO(), file, 3, None, b"model.onnx"):
            with pytest.raises(
                ExportError,
                match=f"cannot write to {type(target).__name__}: .* give a path",
            ):
                export(nn.Linear(4, 4), target, torch.ones(2, 4))  # type: ignore[arg-type]


def tiny(kind: str) -> nn.Module:
    """A transformer of two layers."""
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
        model: nn.Module = transformers.BertModel(
            transformers.BertConfig(vocab_size=50, **sizes)
        )
    else:
        config = transformers.GPT2Config(
            vocab_size=50,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
        model = transformers.GPT2LMHeadModel(config)
    return model


@pytest.mark.cross_section("bert")
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_transformers_with_named_inputs_and_open_sequences(
    tmp_path: Path, kind: str
) -> None:
    ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    open_axes = {0: "batch", 1: "sequence"}
    report = export(
        tiny(kind),
        tmp_path / "model.onnx",
        {"input_ids": ids, "attention_mask": mask},
        dynamic_shapes={"input_ids": open_axes, "attention_mask": open_axes},
        verify_inputs={"attention_mask": mask[:1, :6], "input_ids": ids[:1, :6]},
    )
    assert names(tmp_path / "model.onnx") == ["input_ids", "attention_mask"]
    assert report.max_rel_difference is not None
