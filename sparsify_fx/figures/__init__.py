"""How figures look: one style for analyses, laboratory, comparisons and reports, legible in a column of a paper."""

from sparsify_fx.figures.layout import legend, name_layers, panels
from sparsify_fx.figures.saving import check_look, save
from sparsify_fx.figures.size import COLUMN, FORMATS, PAGE, Look, look
from sparsify_fx.figures.styles import INK, PALETTE, color, series, styles_of

__all__ = [
    "COLUMN",
    "FORMATS",
    "INK",
    "PAGE",
    "PALETTE",
    "Look",
    "check_look",
    "color",
    "legend",
    "look",
    "name_layers",
    "panels",
    "save",
    "series",
    "styles_of",
]
