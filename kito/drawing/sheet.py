"""A sheet to draw on: boxes, lines of text and curves at given places, drawn by Graphviz.

Sizes are in points; the y axis points up, as in Graphviz. Drawings begin at (0, 0) and go down, the
headline and the legend stand above.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kito.errors import InputError

POINTS_PER_INCH = 72
ARROW = "0.6"
FONT = "Helvetica,Arial,sans-serif"
INK, FAINT = "#202124", "#5f6368"
LEGEND, NUMBERS, TITLE = 34.0, 64.0, 92.0  # how high they stand
NOT_IN_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Point = tuple[float, float]
# The middle, the width and the height of a box.
Area = tuple[float, float, float, float]


@dataclass(frozen=True)
class Style:
    """How a box looks, and what the legend says of it."""

    fill: str
    line: str
    meaning: str
    sign: str = ""
    dashed: bool = False


KEPT = Style("#f1f3f4", "#9aa0a6", "the same")
GONE = Style("#fce0dd", "#c5392c", "taken out", sign="− ")  # noqa: RUF001 (a minus, not a hyphen)
NEW = Style("#dcf1df", "#2b8a3e", "put in", sign="+ ")
DECLINED = Style("#fff0c9", "#c08400", "kept, for a rule declined; its tooltip says why")
INSIDE = Style("#dfeafc", "#3569c4", "changed inside, drawn below")
FOLDED = Style("#ffffff", "#9aa0a6", "several calls", dashed=True)
FRAME = Style("#fafbff", "#7d8fc2", "a block that comes again")


def pygraphviz() -> Any:
    """The library that places and draws.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pygraphviz  # noqa: PLC0415 (not everybody who optimizes draws)
    except ImportError as error:
        raise InputError(
            "drawing needs pygraphviz, which brings Graphviz along. Install it: "
            "pip install 'kito[draw]'."
        ) from error
    return pygraphviz


class Sheet:
    """What is drawn, each thing at its place: all of it nodes and edges of one Graphviz graph."""

    def __init__(self) -> None:
        self._graph = pygraphviz().AGraph(directed=True, strict=False)
        self._graph.graph_attr.update(outputorder="nodesfirst", bgcolor="white", pad="0.25")
        self._graph.node_attr.update(shape="box", fixedsize="shape", fontname=FONT, margin="0")
        self._graph.edge_attr.update(color=FAINT, arrowsize=ARROW, penwidth="1.1")
        self._styles: set[Style] = set()

    def box(self, style: Style, area: Area, lines: Sequence[str], tooltip: str) -> None:
        """Draw a rounded box with lines that `font` made."""
        self._styles.add(style)
        self._node(
            area,
            style="rounded,filled,dashed" if style.dashed else "rounded,filled",
            fillcolor=style.fill,
            color=style.line,
            label=f"<{'<BR/>'.join(lines)}>",
            tooltip=_escaped(tooltip),
        )

    def text(self, x: float, y: float, text: str, size: int, *, bold: bool = False) -> None:
        """Write a line that begins at (x, y)."""
        width = len(text) * size * (0.7 if bold else 0.6)  # about; what is too wide is centred
        label = (
            f'<<TABLE BORDER="0" CELLBORDER="0" CELLPADDING="0" CELLSPACING="0" '
            f'WIDTH="{width:.0f}"><TR><TD ALIGN="LEFT">{font(text, size, INK, bold=bold)}</TD>'
            "</TR></TABLE>>"
        )
        area = (x + width / 2, y, width, size * 1.4)
        self._node(area, shape="none", label=label, tooltip=_escaped(text))

    def curve(self, points: Sequence[Point], tooltip: str, *, tip: Point | None = None) -> None:
        """Draw Bezier curves through every third point, and from there an arrow to the tip."""
        pos = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        if tip is not None:
            pos = f"e,{tip[0]:.2f},{tip[1]:.2f} {pos}"
        # Between which nodes does not matter, for the place is given.
        self._graph.add_edge(
            0, 0, pos=pos, dir="none" if tip is None else "forward", tooltip=_escaped(tooltip)
        )

    def head(self, title: str, numbers: str) -> None:
        """Write the headline, and what the styles mean that were drawn."""
        self.text(0, TITLE, shortened(title, 60), 20, bold=True)
        self.text(0, NUMBERS, numbers, 12)
        x = 0.0
        for style in (KEPT, GONE, NEW, DECLINED, INSIDE, FOLDED, FRAME):
            if style in self._styles:
                text = style.sign + style.meaning
                self.box(style, (x + 9, LEGEND, 18, 12), [], text)
                self.text(x + 23, LEGEND, text, 9)
                x += 40 + len(text) * 5.4

    def render(self, form: str) -> bytes:
        """The file, as "svg" or "png"."""
        drawn: bytes = self._graph.draw(format=form, prog="nop2")  # nop2: all has its place
        return drawn

    def _node(self, area: Area, **attributes: str) -> None:
        x, y, width, height = area
        self._graph.add_node(
            len(self._graph),
            pos=f"{x:.2f},{y:.2f}",
            width=inches(width),
            height=inches(height),
            **attributes,
        )


def inches(points: float) -> str:
    """A size as Graphviz takes it."""
    return f"{points / POINTS_PER_INCH:.4f}"


def font(text: str, size: int, color: str, *, bold: bool = False) -> str:
    """Text in a label of Graphviz."""
    strong = f"<B>{_escaped(text)}</B>" if bold else _escaped(text)
    return f'<FONT POINT-SIZE="{size}" COLOR="{color}">{strong}</FONT>'


def shortened(text: str, length: int) -> str:
    """The text, without its middle where it is too long."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _escaped(text: str) -> str:
    """Text for Graphviz, with a sign that looks like a backslash for each of those: before some
    letters it takes a backslash for an escape, however that is written.
    """
    return html.escape(NOT_IN_XML.sub("�", text).replace("\\", "∖"))  # noqa: RUF001
