"""The example of CONTRIBUTING.md works as it is printed: imported, and as a package installed apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sparsify_fx
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.masks import kept_count
from sparsify_fx.recipe import METHODS, find_method
from tests.conftest import effective, small_net

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def printed(language: str) -> str:
    """The page's only code block in `language`."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return textwrap.dedent(code)


def test_one_file_adds_a_criterion_and_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    find_method("dense")
    for registry in (CRITERIA, METHODS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    exec(compile(printed("python"), "distance.py", "exec"), {"__name__": "distance"})
    model = sparsify_fx.apply(small_net(), "distance+signin", sparsity=0.5)
    assert sum(int((weight != 0).sum()) for weight in effective(model).values()) == kept_count(792, 0.5)
    assert find_method("signin+distance").resolved().to_dict()["criterion"] == "distance"


def install(source: Path, target: Path) -> None:
    """pip install, without the network."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True)


def run(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python that sees the packages in `target`; warnings are errors."""
    places = [str(target), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(place for place in places if place)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


CLI = ("-c", "from sparsify_fx.cli import main; main()", "methods")


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "distance.py").write_text(printed("python"), encoding="utf-8")
    (source / "pyproject.toml").write_text(printed("toml"), encoding="utf-8")
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
    used = run(target, "-c", textwrap.dedent(code), str(target))
    assert (used.returncode, used.stdout.strip()) == (0, "10"), used.stderr
    without = run(tmp_path / "nowhere", *CLI, "distance")
    assert without.returncode == 2
    assert "unknown method 'distance'" in without.stderr


def test_a_broken_plugin_is_named_at_every_look_up(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_module_that_is_missing\n", encoding="utf-8")
    information = tmp_path / "broken_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n", encoding="utf-8"
    )
    (information / "entry_points.txt").write_text("[sparsify_fx.plugins]\nmine = broken\n", encoding="utf-8")
    told = (
        "the plugin 'mine' (broken) of the package 'broken-plugin' cannot be loaded: ModuleNotFoundError: No module "
        "named 'a_module_that_is_missing'; mend or uninstall that package"
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
    again = run(tmp_path, "-c", textwrap.dedent(code))
    assert again.stdout == f"{told}\n{told}\n", again.stderr
