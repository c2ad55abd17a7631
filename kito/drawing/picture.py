"""The picture of a change: each graph twice, before on the left, after on the right.

Both sides have the same layout. What takes the place of some calls is drawn as high as they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from kito.drawing.folding import Folding, Item, folded, unfolded
from kito.drawing.layout import Layout
from kito.drawing.sheet import (
    DECLINED,
    FAINT,
    FOLDED,
    FRAME,
    GONE,
    INK,
    INSIDE,
    KEPT,
    NEW,
    Area,
    Sheet,
    Style,
    font,
    shortened,
)
from kito.drawing.units import SIDES, Unit, units
from kito.graph.change import CallRecord, Change
from kito.report import Report

WIDTH = 150.0  # of a box
CALL, RULE, FOLD = 29.0, 10.0, 34.0  # the heights of a call, a line with a rule, a folded box
GAP = 40.0  # between the sides
LINE = 17.0  # between the title of a graph and what is below
# About as many characters of the small and of the large font as a box is wide; fonts differ.
SMALL, LARGE = 33, 20

Path = tuple[str, ...]


def render(change: Change, report: Report, form: str, everything: bool) -> bytes:
    """The picture of a change.

    Args:
        form: "svg" or "png".
        everything: whether every call of every graph is drawn; without, blocks that come again are
            drawn once, graphs that look alike too, and unchanged stretches are one box.

    Raises:
        InputError: pygraphviz is not installed.
    """
    sheet = Sheet()
    units_of = {graph.path: units(graph, report, change.touched) for graph in change.graphs}
    kinds = kinds_of(units_of)
    drawn: set[int] = set()
    bottom = 0.0
    for path, parts in units_of.items():
        if everything:
            bottom = _Section(sheet, parts, unfolded(parts)).draw(bottom, [path])
        elif not path or (path in change.touched and kinds[path] not in drawn):
            drawn.add(kinds[path])
            like = [each for each in units_of if kinds[each] == kinds[path]]
            bottom = _Section(sheet, parts, folded(parts, kinds)).draw(bottom, like)
    sheet.head(change.name, numbers(change))
    return sheet.render(form)


def numbers(change: Change) -> str:
    """How much smaller the model became."""
    (calls, calls_left), (parameters, parameters_left) = change.calls, change.parameters
    fewer = f" ({1 - calls_left / calls:.0%} fewer)" if calls_left < calls else ""
    return (
        f"{calls:,} calls before, {calls_left:,} after{fewer}    "
        f"{parameters:,} parameters before, {parameters_left:,} after"
    )


def kinds_of(units_of: Mapping[Path, Sequence[Unit]]) -> dict[Path, int]:
    """A number for each graph; graphs that look the same, inside too, have the same one."""
    kinds: dict[Path, int] = {}
    known: dict[Hashable, int] = {}

    def kind(path: Path) -> int:
        if path not in kinds:
            looks = tuple(
                (
                    unit.looks,
                    (unit.reads_before, unit.reads_after),
                    tuple(kind(call.inside) for call in unit.before if call.inside is not None),
                )
                for unit in units_of[path]
            )
            kinds[path] = known.setdefault(looks, len(known))
        return kinds[path]

    return {path: kind(path) for path in units_of}


def style_of(unit: Unit, call: CallRecord, side: str) -> Style:
    """How one side shows a call."""
    if not unit.is_on_both_sides(call):
        return GONE if side == "before" else NEW
    if unit.is_touched:
        return INSIDE
    return DECLINED if unit.reasons else KEPT


def shape_of(call: CallRecord) -> str:
    """The shape of the output without the batch, such as `56×56×64`."""  # noqa: RUF002
    sizes = call.shape[1:] if call.shape[:1] == (None,) else call.shape
    return "×".join("?" if size is None else str(size) for size in sizes)  # noqa: RUF001


class _Section:
    """One graph: its layout, and its two sides."""

    def __init__(self, sheet: Sheet, parts: Sequence[Unit], folding: Folding) -> None:
        self.sheet = sheet
        self.units = parts
        self.folding = folding
        self.names = {
            side: {call.id: call.name for unit in parts for call in unit.side(side)}
            for side in SIDES
        }
        sizes = [(WIDTH, self.height(item)) for item in folding.items]
        self.layout = Layout(parts, folding, sizes)

    def height(self, item: Item) -> float:
        if item.is_folded:
            return FOLD
        unit = self.units[item.units[0]]
        return max(CALL * len(unit.side(side)) + _height_of_rules(unit, side) for side in SIDES)

    def draw(self, top: float, like: Sequence[Path]) -> float:
        """Draw it below `top`, and give back where it ends.

        Args:
            like: the paths of the graphs that look like this.
        """
        if like[0]:
            top -= 2 * LINE
            more = f" and {len(like) - 1} more like it" if len(like) > 1 else ""
            name = shortened("/".join(like[0]), 60)
            self.sheet.text(0, top, f"inside {name}{more}", 13, bold=True)
        top -= LINE
        width, height = self.layout.size
        for side, x in zip(SIDES, (0, width + GAP), strict=True):
            self.sheet.text(x, top, side, 13, bold=True)
            self.draw_side(side, x, top - LINE)
        return top - LINE - height

    def draw_side(self, side: str, x: float, y: float) -> None:
        for block in self.folding.frames:
            self.draw_frame(block, x, y)
        for number, item in enumerate(self.folding.items):
            area = _moved(self.layout.area(number), x, y)
            if side == "after" and self.layout.is_gone(number):
                continue
            if item.is_folded:
                self.draw_folded(item, side, area)
            else:
                self.draw_unit(self.units[item.units[0]], side, area)
        gaps = set()
        for edge in self.layout.before if side == "before" else self.layout.after:
            tip, curve = self.layout.curve(edge)
            (x_tip, y_tip), *points = ((across + x, up + y) for across, up in (tip, *curve))
            if side == "after" and self.layout.is_gone(edge[1]):
                self.sheet.curve([*points, *[(x_tip, y_tip)] * 3], "")
                gaps.add(edge[1])
            else:
                self.sheet.curve(points, "", tip=(x_tip, y_tip))
        for number in sorted(gaps):
            self.draw_gap(number, _moved(self.layout.area(number), x, y))

    def draw_frame(self, block: int, x: float, y: float) -> None:
        area = _moved(self.layout.frame(block), x, y)
        text = _times(f"block {block}", self.folding.items[self.folding.frames[block][0]].times)
        self.sheet.box(FRAME, area, [], text)
        middle, height, across, up = area
        self.sheet.text(middle - across / 2 + 4, height + up / 2 - 8, text, 9, bold=True)

    def draw_gap(self, number: int, area: Area) -> None:
        """Draw a line where calls were, with the rules that took them out."""
        x, y, _, height = area
        top, bottom = (x, y + height / 2), (x, y - height / 2)
        units = [self.units[unit] for unit in self.folding.items[number].units]
        rules = " + ".join(dict.fromkeys(rule for unit in units for rule in unit.rules))
        self.sheet.curve([top, top, bottom, bottom], rules)
        self.sheet.text(x + 6, y, rules, 7)

    def draw_folded(self, item: Item, side: str, area: Area) -> None:
        calls = [call for unit in item.units for call in self.units[unit].side(side)]
        number = f"{len(calls):,} calls"
        if item.is_again:
            title = _times(f"block {item.block} again", item.times)
            lines = [_title(title), font(number, 8, FAINT)]
        else:
            lines = [_title(f"{number} unchanged")]
        self.sheet.box(FOLDED, area, lines, f"{calls[0].name} to {calls[-1].name}")

    def draw_unit(self, unit: Unit, side: str, area: Area) -> None:
        x, y, width, height = area
        calls = unit.side(side)
        rules = _height_of_rules(unit, side)
        share = (height - rules) / len(calls) if calls else 0
        top = y + height / 2
        for call in calls:
            style = style_of(unit, call, side)
            lines = [_title(style.sign + call.kind), _details(call)]
            size = share
            if rules and call is calls[-1]:
                lines += [font(rule, 7, NEW.line) for rule in unit.rules]
                lines += [font(f"not {rule}", 7, DECLINED.line) for rule, _ in unit.reasons]
                size += rules
            self.sheet.box(
                style, (x, top - size / 2, width, size), lines, self.tooltip(unit, call, side)
            )
            top -= size

    def tooltip(self, unit: Unit, call: CallRecord, side: str) -> str:
        lines = [
            f"{call.kind} {call.name}",
            f"{shape_of(call)} {call.dtype}, {call.parameters:,} parameters",
            f"reads {', '.join(self.names[side][read] for read in call.reads) or 'nothing'}",
            *(f"rewritten by {rule}" for rule in unit.rules),
            *(f"not rewritten by {rule}: {reason}" for rule, reason in unit.reasons),
        ]
        return "\n".join(lines)


def _height_of_rules(unit: Unit, side: str) -> float:
    """They stand in the last call after the change."""
    return RULE * (len(unit.rules) + len(unit.reasons)) if side == "after" and unit.after else 0


def _moved(area: Area, x: float, y: float) -> Area:
    return area[0] + x, area[1] + y, area[2], area[3]


def _times(text: str, times: int) -> str:
    return f"{text} ×{times}" if times > 1 else text  # noqa: RUF001


def _title(text: str) -> str:
    size = 10 if len(text) <= LARGE else 10 * LARGE // len(text)
    return font(text, size, INK, bold=True)


def _details(call: CallRecord) -> str:
    shape = shape_of(call)
    name = shortened(call.name, SMALL - len(shape) - 2)
    return font(f"{name}  {shape}".rstrip(), 7, FAINT)
