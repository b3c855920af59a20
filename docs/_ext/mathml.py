"""Formulas as MathML, which browsers draw themselves: no script, no font and no other host is needed."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert


def inline(translator: Any, node: nodes.math) -> None:
    """A formula within a line."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own, which scrolls where it is wider than a telephone."""
    # Lines of one block are lines on the page: the converter knows no empty line.
    lines = [line.strip() for line in node.astext().split(r"\\") if line.strip()]
    formulas = "".join(convert(line, display="block") for line in lines)
    translator.body.append(f'<div class="formula">{formulas}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Told to Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
