"""Tables of layers: names stay readable at any width, nothing in them is markup, and files get plain text."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from sparsify_fx.cli import app
from sparsify_fx.onnx_export.report.rows import LayerRow
from sparsify_fx.onnx_export.report.tables import layers_table
from sparsify_fx.passes.onnx_graph import PassRow, passes_table
from sparsify_fx.tables.fitting import FittingTable, Grid, escaped

BERT = [
    f"bert.encoder.layer.{place}.attention.output.dense.weight" for place in range(12)
]
LONG = ["module.backbone." + "blocks.11." * 12 + "mlp.fc1.weight"]
EVIL = [
    "[bold]w[/]",
    "[/]",
    "[link=x]",
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "tab\tbed",
    "\u202eright",
    "\ud800",
    "重み.weight",
    "",
]


def resnet() -> list[str]:
    with torch.device("meta"):
        return [
            name
            for name, value in torchvision.models.resnet50().named_parameters()
            if value.dim() > 1
        ]


NAMES = {"resnet50": resnet(), "bert": BERT, "long": LONG, "evil": EVIL}


def row(name: str) -> LayerRow:
    return LayerRow(
        name,
        (3072, 768),
        "float32",
        3072 * 768,
        123456,
        9437184,
        1234567,
        "gap",
        True,
        macs=10**9,
    )


def printed(table: object, width: int, terminal: bool = True) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system=None
    )
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text).splitlines()


def cells(lines: Sequence[str]) -> list[list[str]]:
    """The cells of each line of a box."""
    return [
        [cell.strip() for cell in line.strip("│┃").split("│")]
        for line in lines
        if line.startswith("│")
    ]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("kind", NAMES)
def test_names_are_whole_or_folded_into_long_pieces(kind: str, width: int) -> None:
    names = NAMES[kind]
    lines = printed(
        layers_table("model.onnx", [row(name) for name in names], 1234), width
    )
    assert max(map(len, lines)) <= width
    found = cells(lines)
    first = [line[0] for line in found]
    text = "".join(first)
    assert all(escaped(name) in text for name in names)
    lines_per_name = (len(first) - 2) / len(names)
    assert lines_per_name <= -(-max(map(len, names)) // 20) + 1
    assert any("0.0523" in line for line in found)  # the density always stays


def test_columns_give_way_in_order_and_are_named() -> None:
    table = layers_table("m", [row(name) for name in BERT], 1234)
    assert "too narrow" not in "\n".join(printed(table, 160))
    narrower = "\n".join(printed(table, 120))
    assert (
        "too narrow for bound: see --json or a wider window" in narrower
        or "for bound, dense:" in narrower
    )
    assert "MACs left" in narrower
    narrow = " ".join(" ".join(printed(table, 40)).split())
    assert "too narrow for bound, dense, MACs left, stored as" in narrow


def test_plain_text_where_there_is_no_terminal() -> None:
    table = layers_table(
        "dir/[x]/m.onnx", [row(name) for name in [*BERT, *LONG, *EVIL]], 1234
    )
    table.caption = "a note with [/] in it\nand another"
    lines = printed(table, 100_000, terminal=False)
    assert lines[0] == "dir/[x]/m.onnx"
    assert lines[-2:] == ["a note with [/] in it", "and another"]
    assert lines[1].split() == [
        "layer",
        "shape",
        "density",
        "MACs",
        "left",
        "dense",
        "bytes",
        "bound",
        "stored",
        "as",
    ]
    assert len(lines) == 2 + len(BERT) + len(LONG) + len(EVIL) + 2 + 2
    assert not set("".join(lines)) & set("│┃━\x1b")
    assert any(line.startswith(f"{LONG[0]}  3072x768") for line in lines)


def test_a_narrow_file_drops_columns_too() -> None:
    lines = printed(
        layers_table("m", [row(name) for name in BERT], 1234), 80, terminal=False
    )
    assert max(map(len, lines)) <= 80
    assert any(BERT[0][:30] in line for line in lines)


def test_nothing_is_markup_and_controls_are_shown() -> None:
    lines = "\n".join(
        printed(layers_table("[red]t[/red]", [row(name) for name in EVIL], 1), 200)
    )
    for shown in (
        "[red]t[/red]",
        "[bold]w[/]",
        "a\\nb",
        "\\x1b[31mred",
        "tab\\tbed",
        "\\u202eright",
        "\\ud800",
        "重み",
    ):
        assert shown in lines
    assert "\x1b" not in lines


def test_other_tables_keep_their_names() -> None:
    long = "removal of what nothing reads, in every branch of the graph and in its functions"
    lines = printed(passes_table([PassRow(long, 1, 1000, 2000, 10**9, 10**9)]), 60)
    assert all(len(line) >= 20 for line in [line[0] for line in cells(lines)][:1])
    grid = Grid(
        "[/] grid",
        ("layer", *(f"a heading of column {n}" for n in range(9))),
        ((BERT[0], *range(9)),),
    )
    lines = printed(grid.table(), 60)
    assert max(map(len, lines)) <= 60
    assert BERT[0] in "".join(line[0] for line in cells(lines))
    assert "[/] grid" in lines[0]
    table = FittingTable("a", "b")
    assert len(printed(table, 40)) >= 1
    assert printed(FittingTable(), 40) is not None


def test_the_command_writes_plain_text_and_json_to_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    state = {f"{name}[/]\x1b[1m": torch.eye(4) for name in BERT}
    save_file(state, tmp_path / "m.safetensors")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.safetensors")])
    assert done.exit_code == 0, done.output
    assert (
        sum(
            line.split()[:2] == [f"{BERT[3]}[/]\\x1b[1m", "4x4"]
            for line in done.output.splitlines()
        )
        == 1
    )
    done = CliRunner().invoke(
        app, ["inspect", str(tmp_path / "m.safetensors"), "--json", "-"]
    )
    assert f'"{BERT[3]}[/]\\u001b[1m"' in done.stdout
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "none\x1b[31m.pt")])
    assert "none\\x1b[31m.pt" in done.output
    assert "\x1b" not in done.output


def test_names_of_a_model_in_a_run(tmp_path: Path) -> None:
    torch.save(
        {"model": nn.Sequential(nn.Linear(4, 4)).state_dict()},
        tmp_path / "checkpoint.pt",
    )
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert "0.weight" in done.output
