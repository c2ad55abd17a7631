"""The change as a file for Model Explorer, a viewer for graphs of models.

Its format is a label and a list of graphs, see `graph_builder.py` of the package
`ai-edge-model-explorer`. A call has the same number on both sides, so that the viewer can show both
side by side and follow a selection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kito.drawing.picture import shape_of, style_of
from kito.drawing.sheet import Style
from kito.drawing.units import SIDES, Unit, units
from kito.graph.change import CallRecord, Change
from kito.report import Report


def export(change: Change, report: Report) -> str:
    """The JSON document."""
    graphs: list[dict[str, Any]] = []
    for graph in change.graphs:
        parts = units(graph, report, change.touched)
        for side in SIDES:
            nodes = [_node(side, part, call) for part in parts for call in part.side(side)]
            graphs.append({"id": _graph_id(side, graph.path), "nodes": nodes})
    return json.dumps({"label": change.name, "graphs": graphs}, indent=1)


def _graph_id(side: str, path: tuple[str, ...]) -> str:
    return "/".join((side, *path))


def _node(side: str, unit: Unit, call: CallRecord) -> dict[str, Any]:
    style = style_of(unit, call, side)
    node = {
        "id": str(call.id),
        "label": call.kind,
        "namespace": "",
        "incomingEdges": [
            {"sourceNodeId": str(read), "sourceNodeOutputId": "0", "targetNodeInputId": str(number)}
            for number, read in enumerate(call.reads)
        ],
        "attrs": [{"key": key, "value": value} for key, value in _attributes(unit, call, style)],
        "outputsMetadata": [
            {"id": "0", "attrs": [{"key": "shape", "value": f"{shape_of(call)} {call.dtype}"}]}
        ],
        "style": {"backgroundColor": style.fill, "borderColor": style.line},
    }
    if call.inside is not None:
        node["subgraphIds"] = [_graph_id(side, call.inside)]
    return node


def _attributes(unit: Unit, call: CallRecord, style: Style) -> Iterator[tuple[str, str]]:
    yield "name", call.name
    yield "parameters", f"{call.parameters:,}"
    yield "change", style.meaning
    for rule in unit.rules:
        yield "rule", rule
    for rule, reason in unit.reasons:
        yield f"declined by {rule}", reason
