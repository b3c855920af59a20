"""The examples of CONTRIBUTING.md work as they are printed: imported, as a package installed apart, and as a plugin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import sparsify_fx
from sparsify_fx import plugins, testing
from sparsify_fx.actions import ACTIONS
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.masks import kept_count
from sparsify_fx.parameterizations import PARAMETERIZATIONS
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import METHODS, find_method
from tests.conftest import effective, small_net, train_step
from tests.fresh import COMMAND, run_fresh

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def printed(language: str, first_line: str) -> str:
    """The page's only code block in `language` that begins so."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(
        rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE
    )
    (code,) = (
        block for block in map(textwrap.dedent, blocks) if block.startswith(first_line)
    )
    return code


def test_one_file_adds_a_criterion_and_a_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_method("dense")
    for registry in (CRITERIA, METHODS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    exec(
        compile(printed("python", "# distance.py"), "distance.py", "exec"),
        {"__name__": "distance"},
    )
    model = sparsify_fx.apply(small_net(), "distance+signin", sparsity=0.5)
    assert sum(
        int((weight != 0).sum()) for weight in effective(model).values()
    ) == kept_count(792, 0.5)
    assert (
        find_method("signin+distance").resolved().to_dict()["criterion"] == "distance"
    )


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's deep product, loaded as `--plugin` does and gone after the test."""
    find_method("dense")
    for registry in (PARAMETERIZATIONS, ACTIONS, METHODS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(plugins, "_files", {})
    file = tmp_path / "deep_product.py"
    file.write_text(printed("python", "# deep_product.py"), encoding="utf-8")
    module = plugins.load_file(file)
    yield module
    del sys.modules[module.__name__]


@pytest.mark.sweep
def test_one_file_adds_a_deep_product_with_a_rescale_of_its_own(
    deep: ModuleType,
) -> None:
    for beta in (0.01, 1.0, 7.0):
        testing.check_parameterization(deep.DeepProduct(beta=beta))
    testing.check_method("deep-signin")
    testing.check_method("deep-signin+lrr")


def test_its_beta_follows_the_progress_of_each_run(deep: ModuleType) -> None:
    model = sparsify_fx.apply(small_net(), "lrr+deep-signin", sparsity=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=2)
    betas = []
    while not scheduler.finished:
        how = next(iter(programs(model).values())).parameterization
        betas.append(round(how.beta, 6))
        for program in programs(model).values():
            assert (
                not how.unbalanced(program.tensors()).any() or scheduler.step_count % 2
            )
        train_step(model, optimizer, scheduler.step_count)
        scheduler.step()
    run = [1.0, 1.0, 0.775, 0.775, 0.55, 0.55, 0.325, 0.325]
    assert betas == run * (scheduler.epochs // 4)


def install(source: Path, target: Path) -> None:
    """pip install, without the network."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
    ]
    subprocess.run(
        [*command, "--target", str(target), str(source)],
        check=True,
        capture_output=True,
    )


def run(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh process that sees the packages in `target`."""
    places = [str(target), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(place for place in places if place)
    }
    return run_fresh(*arguments, environment=environment)


CLI = (COMMAND, "methods")


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "distance.py").write_text(
        printed("python", "# distance.py"), encoding="utf-8"
    )
    (source / "pyproject.toml").write_text(
        printed("toml", "# pyproject.toml"), encoding="utf-8"
    )
    install(source, target)

    shown = run(target, *CLI, "distance+signin", "--json", "-")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["axes"]["criterion"] == "distance"

    code = """
        import warnings; warnings.simplefilter("error")
        import sys, sparsify_fx
        from torch import nn
        assert "distance" not in sys.modules, "plugins wait for the first look-up"
        model = sparsify_fx.apply(nn.Linear(10, 10), method="distance", sparsity=0.9)
        assert sys.modules["distance"].__file__.startswith(sys.argv[1])
        weight = model.weight.detach()
        far = (weight - weight.mean()).abs()
        print(int((weight != 0).sum()))
        other = sparsify_fx.apply(nn.Linear(4, 4), method="lrr", criterion="distance", sparsity=0.5)
    """
    used = run(target, textwrap.dedent(code), str(target))
    assert (used.returncode, used.stdout.strip()) == (0, "10"), used.stderr
    without = run(tmp_path / "nowhere", *CLI, "distance")
    assert without.returncode == 2
    assert "unknown method 'distance'" in without.stderr


def test_a_broken_plugin_is_named_at_every_look_up(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import a_module_that_is_missing\n", encoding="utf-8"
    )
    information = tmp_path / "broken_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n", encoding="utf-8"
    )
    (information / "entry_points.txt").write_text(
        "[sparsify_fx.plugins]\nmine = broken\n", encoding="utf-8"
    )
    told = (
        "the plugin 'mine' (broken) of the package 'broken-plugin' cannot be loaded: ModuleNotFoundError: No module "
        "named 'a_module_that_is_missing'; fix or uninstall that package"
    )
    shown = run(tmp_path, *CLI)
    assert shown.returncode == 2
    assert told in shown.stderr
    assert "Traceback" not in shown.stderr
    code = """
        import warnings; warnings.simplefilter("error")
        from sparsify_fx.errors import PluginError
        from sparsify_fx.recipe import find_method
        for _ in range(2):
            try:
                find_method("lrr")
            except PluginError as error:
                print(error)
    """
    again = run(tmp_path, textwrap.dedent(code))
    assert again.stdout == f"{told}\n{told}\n", again.stderr
