"""A drawing as SVG text: one self-contained file with colours for light and dark surroundings, no script, no font."""

import re
from html import escape

from agentmesh.drawing.shapes import NOTCH, Arrow, Box, Drawing, Label, Shape, Words

__all__ = ["to_svg"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Helvetica, Arial, sans-serif"
BASELINE = 0.35
"""From the middle of a line down to its baseline, in sizes of the type: not every viewer can centre text itself."""

LIGHT = {
    "back": ("#ffffff", "#ffffff"),
    "dispatch": ("#e4edff", "#3565c4"),
    "agent": ("#e2f5e9", "#2a8a50"),
    "refine": ("#fdeedb", "#b96a12"),
    "path": ("#f0e9fe", "#7449cc"),
    "subgraph": ("#f4f6f8", "#76808f"),
    "terminal": ("#2b3442", "#2b3442"),
    "chip": ("#ffffff", "#7449cc"),
}
"""Fill and border by shape."""
DARK = {
    "back": ("#10151c", "#10151c"),
    "dispatch": ("#172a4d", "#7fa8f5"),
    "agent": ("#143524", "#5cc98a"),
    "refine": ("#3d2a10", "#e5a352"),
    "path": ("#2b1f4a", "#b095f0"),
    "subgraph": ("#1a212b", "#8b97a8"),
    "terminal": ("#dde3ec", "#dde3ec"),
    "chip": ("#1d1733", "#b095f0"),
}
INK = {"text": ("#1b2430", "#e8edf4"), "muted": ("#566070", "#a9b4c3"), "line": ("#566070", "#a9b4c3")}
"""Colours of words and lines, light and dark; words reach a contrast of 4.5 to 1 on every fill."""

_FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold (section 2.2)."""


def to_svg(drawing: Drawing) -> str:
    """The drawing as an SVG document; text that a file or a person gave is escaped."""
    width, height = _n(drawing.width), _n(drawing.height)
    title = _text(drawing.title or "graph")
    labels = [_label(arrow.label) for arrow in drawing.arrows if arrow.label]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{title}">',
            f"<title>{title}</title>",
            f"<style>{_style()}</style>",
            _marker("head", "line-fill"),
            f'<rect class="back" width="{width}" height="{height}" rx="10"/>',
            *(_box(box) for box in drawing.boxes),
            *(_arrow(arrow) for arrow in drawing.arrows),
            *labels,
            "</svg>",
            "",
        ]
    )


def _style() -> str:
    def rules(fills: dict[str, tuple[str, str]], side: int) -> str:
        parts = [f".{name}{{fill:{fill};stroke:{border}}}" for name, (fill, border) in fills.items()]
        line, text, muted = INK["line"][side], INK["text"][side], INK["muted"][side]
        inverse = fills["back"][0]
        parts += [
            f".flow,.loop,.thin{{fill:none;stroke:{line}}}",
            f".line-fill{{fill:{line}}}.dot{{fill:{line};stroke:none}}",
            f"text{{fill:{text}}}.muted{{fill:{muted}}}.inverse{{fill:{inverse}}}",
        ]
        return "".join(parts)

    shape = (
        f"text{{font-family:{FONT};text-anchor:middle}}"
        ".flow,.loop{stroke-width:1.6}.loop{stroke-dasharray:6 4}.thin{stroke-width:1;opacity:.55}"
    )
    return f"{shape}{rules(LIGHT, 0)}@media (prefers-color-scheme:dark){{{rules(DARK, 1)}}}"


def _marker(name: str, style: str) -> str:
    return (
        f'<defs><marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path class="{style}" d="M0 0.8 L9.5 5 L0 9.2 z"/></marker></defs>'
    )


def _box(box: Box) -> str:
    x, y, w, h = box.x, box.y, box.width, box.height
    style = f'class="{box.shape.value}"'
    words = "".join(_words(line, inverse=box.shape is Shape.TERMINAL) for line in box.words)
    match box.shape:
        case Shape.DISPATCH:
            middle = y + h / 2
            corners = (
                (x, middle), (x + NOTCH, y), (x + w - NOTCH, y),
                (x + w, middle), (x + w - NOTCH, y + h), (x + NOTCH, y + h),
            )  # fmt: skip
            points = " ".join(f"{_n(a)},{_n(b)}" for a, b in corners)
            return f'<polygon {style} points="{points}" stroke-width="1.5" stroke-linejoin="round"/>{words}'
        case Shape.REFINE:
            bars = "".join(
                f'<path {style} d="M{_n(a)} {_n(y)} V{_n(y + h)}" stroke-width="1.5"/>' for a in (x + 7, x + w - 7)
            )
            return _rect(style, box, 3) + bars + words
        case Shape.DOT:
            return (f'<circle {style} cx="{_n(x + w / 2)}" cy="{_n(y + h / 2)}" r="{_n(w / 2)}"/>' if w else "") + words
        case Shape.TERMINAL:
            return _rect(style, box, h / 2) + words
        case Shape.CHIP:
            return _rect(style, box, 6) + words
        case Shape.AGENT:
            return _rect(style, box, 12) + words
        case Shape.SUBGRAPH | Shape.PATH:
            return _rect(style, box, 8) + words


def _rect(style: str, box: Box, radius: float) -> str:
    return (
        f'<rect {style} x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" '
        f'rx="{_n(radius)}" stroke-width="{1 if box.shape is Shape.CHIP else 1.5}"/>'
    )


def _arrow(arrow: Arrow) -> str:
    way = [f"M{_n(arrow.start[0])} {_n(arrow.start[1])}"]
    for piece in arrow.pieces:
        points = ", ".join(f"{_n(x)} {_n(y)}" for x, y in piece)
        way.append(("L" if len(piece) == 1 else "C") + points)
    head = "" if arrow.style == "thin" else ' marker-end="url(#head)"'
    return f'<path class="{arrow.style}" d="{" ".join(way)}"{head}/>'


def _label(label: Label) -> str:
    words, paper = label.words, label.on.value if label.on else "back"
    place = f'x="{_n(words.x - label.width / 2)}" y="{_n(words.y - 9)}" width="{_n(label.width)}" height="18"'
    return f'<rect class="{paper}" style="stroke:none" {place}/>{_words(words)}'


def _words(words: Words, *, inverse: bool = False) -> str:
    style = ' class="inverse"' if inverse else ' class="muted"' if words.muted else ""
    weight = ' font-weight="600"' if words.bold else ""
    place = f'x="{_n(words.x)}" y="{_n(words.y + BASELINE * words.size)}" font-size="{_n(words.size)}"'
    return f"<text {place}{weight}{style}>{_text(words.text)}</text>"


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("�", text))


def _n(value: float) -> str:
    """A number without needless digits."""
    return f"{value:.1f}".removesuffix(".0")
