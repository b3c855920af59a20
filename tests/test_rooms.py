"""The house: few loose modules, no circles of packages, short files that breathe, tests in the rooms they test, and old
paths that still lead somewhere.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

import sparsify_fx
from sparsify_fx.moved import MOVED

ROOT = Path(sparsify_fx.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parent
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
NO_CODE = {
    tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.COMMENT,
}  # fmt: skip


def loose(folder: Path) -> list[str]:
    """The modules of a folder that are in none of its rooms."""
    return sorted(
        file.stem for file in folder.glob("*.py") if not file.stem.startswith("__")
    )


def imported(file: Path) -> Iterator[str]:
    """The modules of this package that a file imports when it is imported itself."""
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue  # imported when it is called
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue  # for type checkers alone
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == "sparsify_fx"
        ):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                alias.name
                for alias in node.names
                if alias.name.startswith("sparsify_fx.")
            )
        waiting += ast.iter_child_nodes(node)


def code_lines(source: str) -> list[int]:
    """How many tokens start on each line of code; lines of a bare string, such as a docstring, are none."""
    strings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            strings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    starts = Counter(
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in NO_CODE
    )
    return [count for line, count in starts.items() if line not in strings]


def package(module: str) -> str:
    """The package or loose module right under sparsify_fx."""
    return module.split(".")[1]


def test_few_loose_modules() -> None:
    assert len(loose(ROOT)) <= 16, loose(ROOT)
    assert len(loose(ROOT / "onnx_export")) <= 8, loose(ROOT / "onnx_export")
    assert len(loose(ROOT / "runtime")) <= 8, loose(ROOT / "runtime")


def test_packages_do_not_import_each_other_in_circles() -> None:
    graph = networkx.DiGraph()
    for file in FILES:
        if file.parent == ROOT and file.stem.startswith("__"):
            continue  # the public names: they import everything, and nothing imports them
        here = file.relative_to(ROOT).with_suffix("").parts[0]
        graph.add_edges_from(
            (here, package(name)) for name in imported(file) if package(name) != here
        )
    circles = [
        sorted(group)
        for group in networkx.strongly_connected_components(graph)
        if len(group) > 1
    ]
    assert circles == []


def test_files_are_short() -> None:
    assert [
        str(file.relative_to(ROOT))
        for file in FILES
        if len(file.read_text().splitlines()) > 300
    ] == []


def test_lines_are_no_denser_than_a_reader_takes_in() -> None:
    """At most 8.5 tokens a line of code over all files of the package.

    A token is one of Python's own, as `tokenize` gives them: names, numbers, operators, brackets, strings (an f-string
    is several). Ends of lines, indents and comments are none. It counts for the line on which it starts. A line of code
    is one on which a token starts, outside of docstrings.
    """
    lines = [count for file in FILES for count in code_lines(file.read_text())]
    assert sum(lines) / len(lines) <= 8.5


def test_comments_say_why_often_enough() -> None:
    """At least 4 of 100 lines are a comment and nothing else; blank lines and docstrings count among the 100.

    Whether they say why, a reviewer has to read.
    """
    lines = comments = 0
    for file in FILES:
        text = file.read_text().split("\n")
        lines += len(text)
        comments += sum(line.strip().startswith("#") for line in text)
    assert comments / lines >= 0.04


def test_comprehensions_have_one_for() -> None:
    assert [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, Comprehension) and len(node.generators) > 1
    ] == []


def test_docstrings_say_something() -> None:
    """None is a mere word or two, such as "All." or "The graph."; a formula may be short."""
    found = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            text = ast.get_docstring(node) if isinstance(node, Documented) else None
            if text is not None and re.fullmatch(r"[A-Za-z ,.'-]{0,12}", text):
                found.append(f"{file.relative_to(ROOT)}: {text}")
    assert found == []


def test_tests_lie_in_the_rooms_that_they_test() -> None:
    rooms = {
        folder.name for folder in TESTS.iterdir() if (folder / "__init__.py").exists()
    }
    assert [room for room in rooms if not (ROOT / room).is_dir()] == []
    names = {room.name for room in ROOT.iterdir() if room.is_dir()}
    assert [name for name in loose(TESTS) if name.removeprefix("test_") in names] == []


@pytest.mark.parametrize("old", MOVED)
def test_old_paths_give_the_modules_that_took_their_place(old: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=f"sparsify_fx.{old} is now sparsify_fx.{MOVED[old]}"
    ):
        module = importlib.import_module(f"sparsify_fx.{old}")
    assert module is importlib.import_module(f"sparsify_fx.{MOVED[old]}")
    assert module.__spec__ is not None
    assert module.__spec__.name == f"sparsify_fx.{MOVED[old]}"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("recipe", "Recipe", "Method"),
        ("recipe", "merge_recipes", "merge_methods"),
        ("errors", "RecipeError", "MethodError"),
        ("parameterizations", "Balanced", "BalancedProduct"),
        ("parameterizations", "Concrete", "HardConcrete"),
        ("parameterizations", "Power", "PowerPropagation"),
        ("parameterizations", "Sigmoid", "SigmoidGate"),
        ("parameterizations", "Threshold", "SoftThreshold"),
        ("parameterizations.hard_concrete", "Concrete", "HardConcrete"),
        ("parameterizations.power_propagation", "Power", "PowerPropagation"),
        ("parameterizations.sigmoid_gate", "Sigmoid", "SigmoidGate"),
        ("parameterizations.soft_threshold", "Threshold", "SoftThreshold"),
        ("passes", "SplitBalanced", "BalancedProduct"),
        ("passes", "SplitProduct", "Product"),
        ("passes.reparameterize", "SplitBalanced", "BalancedProduct"),
        ("passes.reparameterize", "SplitProduct", "Product"),
    ],
)
def test_old_names_give_the_objects_that_were_renamed(
    module: str, old: str, new: str
) -> None:
    place = importlib.import_module(f"sparsify_fx.{module}")
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now {new}; "):
        assert getattr(place, old) is getattr(place, new)
    assert old not in vars(place)  # so that it warns wherever it is still used
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        _ = place.unheard_of


def test_the_balanced_product_is_found_where_pickles_of_0_1_look_for_it() -> None:
    product = importlib.import_module("sparsify_fx.parameterizations.product")
    with pytest.warns(DeprecationWarning, match=r"balanced_product\.BalancedProduct; "):
        assert product.Balanced is sparsify_fx.parameterizations.BalancedProduct


@pytest.mark.parametrize(
    "path",
    [
        "sparsify_fx.onnx_export.inspect_file", "sparsify_fx.onnx_export.inspection.inspect_file",
        "sparsify_fx.onnx_export.pack_onnx", "sparsify_fx.passes.onnx_graph.optimize", "sparsify_fx.train.load_config",
        "sparsify_fx.train.run_folder.RunFolder", "sparsify_fx.zoo.data.load_data", "sparsify_fx.zoo.models",
        "sparsify_fx.schedules.AtInit", "sparsify_fx.recipe.METHODS", "sparsify_fx.lab.base", "sparsify_fx.errors",
        "sparsify_fx.initializations", "sparsify_fx.criteria.criterion", "sparsify_fx.scheduler.Scheduler",
        "sparsify_fx.distributed.independent", "sparsify_fx.runtime.session", "sparsify_fx.parameter_groups",
    ],
)  # fmt: skip
def test_documented_paths_stay_without_a_warning(path: str) -> None:
    module, _, name = path.rpartition(".")
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.import_module(path) is not None
