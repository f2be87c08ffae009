"""Drawings of graphs of agents, as SVG text and as PNG pictures; no network and no other program.

Mermaid and DOT text are methods of the graph itself (`GraphSpec.mermaid`, `GraphSpec.dot`).
"""

from agentmesh.drawing.layout import lay_out
from agentmesh.drawing.shapes import Drawing
from agentmesh.graphs import GraphSpec

__all__ = ["Drawing", "draw_png", "draw_svg", "lay_out"]


def draw_svg(graph: GraphSpec) -> str:
    """The graph as an SVG document with colours for light and dark surroundings."""
    from agentmesh.drawing.svg import to_svg

    return to_svg(lay_out(graph))


def draw_png(graph: GraphSpec) -> bytes:
    """The graph as the bytes of a PNG file.

    Raises:
        ConfigError: If matplotlib is not installed (the extra `plots`).
        InputError: If the graph is too large for a picture.
    """
    from agentmesh.drawing.png import to_png

    return to_png(lay_out(graph))
