"""A page about runs: curves, events, layers, signs, sizes and speeds in one HTML file, or a notebook to go on from."""

from sparsify_fx.report.details import Details, LayerFacts, details_of
from sparsify_fx.report.facts import RunFacts, read_facts
from sparsify_fx.report.figures import draw_curves, draw_density
from sparsify_fx.report.sizes import Sizes
from sparsify_fx.report.write import report

__all__ = [
    "Details",
    "LayerFacts",
    "RunFacts",
    "Sizes",
    "details_of",
    "draw_curves",
    "draw_density",
    "read_facts",
    "report",
]
