"""Draws a dashboard, or all alerts, as a picture (SVG) with the data of a Prometheus: for documentation, without a Grafana.

    python -m halcyon_dashboards.picture http://127.0.0.1:9090 run --set namespace=team --set run=demo --minutes 10 > run.svg
    python -m halcyon_dashboards.picture http://127.0.0.1:9090 alerts > alerts.svg

Panels have the same positions and queries as in Grafana; colours, axes and legends are simpler.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from halcyon_dashboards.alert_table import alert_table
from halcyon_dashboards.amounts import amount
from halcyon_dashboards.generate import FILES
from halcyon_dashboards.terminal import as_svg

COLUMN, ROW, MARGIN, POINTS = 52, 30, 5, 100
ALERT_COLUMNS = 140
ALERTS = "alerts"
COLORS = ("#3274d9", "#e0852b", "#299c46", "#d44a3a", "#8f3bb8", "#1f9ea8", "#b8860b", "#6d6d6d", "#d683ce", "#7aa6e8")


@dataclass(frozen=True)
class Series:
    """One line of a graph: its name, its labels and its points (seconds since 1970, value)."""

    name: str
    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


RunQuery = Callable[[str], Sequence[tuple[Mapping[str, str], Sequence[tuple[float, float]]]]]
"""An expression → labels and points of each series, over the time range of the picture."""


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """Replace the dashboard's variables in a text, the longest names first."""
    for name in sorted(variables, key=len, reverse=True):
        text = text.replace(f"${name}", variables[name])
    return text


def draw(board: Mapping[str, Any], ask: RunQuery, variables: Mapping[str, str], start: float, end: float) -> str:
    """Return a dashboard as SVG.

    Args:
        board: A generated dashboard.
        ask: Returns the data of an expression.
        variables: Values of the dashboard's variables.
        start: Start of the time range, in seconds since 1970.
        end: End of the time range, in seconds since 1970.
    """
    parts: list[str] = []
    for panel in board["panels"]:
        place = panel["gridPos"]
        x, y, width, height = place["x"] * COLUMN, place["y"] * ROW + 40, place["w"] * COLUMN - MARGIN, place["h"] * ROW - MARGIN
        frame = f'<rect width="{width}" height="{height}" rx="3" fill="#fff" stroke="#d8d9da"/>' if panel["type"] != "row" else ""
        title = f'<text x="8" y="17" font-size="12" font-weight="600">{escape(panel["title"])}</text>'
        body = _panel(panel, ask, variables, width, height, start, end)
        parts.append(f'<g transform="translate({x},{y})">{frame}{title}{body}</g>')
    tall = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) * ROW + 50
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {24 * COLUMN + 12} {tall}" font-family="sans-serif" fill="#24292e">'
    name = f'<text y="26" font-size="18">{escape(board["title"])}</text>'
    return f'{head}<rect x="-8" width="100%" height="100%" fill="#f4f5f5"/>{name}{"".join(parts)}</svg>\n'


def _panel(panel: Mapping[str, Any], ask: RunQuery, variables: Mapping[str, str], width: int, height: int, start: float, end: float) -> str:
    if panel["type"] == "row":
        return ""
    step = (end - start) / POINTS
    series = [
        Series(_named(target["legendFormat"], labels), labels, points)
        for target in panel["targets"]
        for labels, points in _finite(ask(substituted(target["expr"], variables)))
        if not target.get("instant") or points[-1][0] > end - 2 * step
    ]
    defaults = panel["fieldConfig"]["defaults"]
    if panel["type"] == "table":
        return _table(panel, ask, variables, end - 2 * step)
    if panel["type"] == "stat":
        return _number(series, panel, defaults["unit"], width, height)
    return _graph(series, defaults, width, height, start, end)


def _finite(
    answer: Sequence[tuple[Mapping[str, str], Sequence[tuple[float, float]]]],
) -> Iterator[tuple[Mapping[str, str], Sequence[tuple[float, float]]]]:
    """Drop points that are not finite, and series without other points."""
    for labels, points in answer:
        if kept := [(moment, value) for moment, value in points if math.isfinite(value)]:
            yield labels, kept


def _pieces(points: Sequence[tuple[float, str, str]], longest: float) -> Iterator[list[tuple[str, str]]]:
    """Split points (time, upper, lower) at gaps longer than `longest` seconds."""
    piece: list[tuple[str, str]] = []
    before = -math.inf
    for moment, above, below in points:
        if piece and moment - before > longest:
            yield piece
            piece = []
        piece.append((above, below))
        before = moment
    if piece:
        yield piece


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return "" if legend == "__auto" else legend


def _number(series: Sequence[Series], panel: Mapping[str, Any], unit: str, width: int, height: int) -> str:
    if not series:
        caption = "no data"
    elif panel["options"].get("textMode") == "name":
        caption = series[-1].name
    else:
        caption = amount(series[-1].points[-1][1], unit)
    return f'<text x="{width / 2}" y="{height / 2 + 22}" font-size="26" text-anchor="middle">{escape(caption)}</text>'


def _graph(series: Sequence[Series], defaults: Mapping[str, Any], width: int, height: int, start: float, end: float) -> str:
    custom, unit = defaults["custom"], defaults["unit"]
    left, top, bottom = 58, 28, height - 18 - 14 * math.ceil(len(series) / 3)
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    lines = _stacked(series) if stacked else [(one, [0.0] * len(one.points)) for one in series]
    values = [value + low for one, lows in lines for (_, value), low in zip(one.points, lows, strict=True) if math.isfinite(value)]
    if not values:
        return f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle" fill="#888">no data</text>'
    low, high = min([*values, defaults.get("min", math.inf)]), max(values)
    high = high if high > low else low + (abs(low) or 1)

    def at(moment: float, value: float) -> str:
        across = left + (moment - start) / (end - start) * (width - left - 10)
        return f"{across:.1f},{bottom - (value - low) / (high - low) * (bottom - top):.1f}"

    drawn = []
    for share in (0, 0.5, 1):
        value = low + share * (high - low)
        x, y = at(start, value).split(",")
        drawn.append(f'<line x1="{x}" y1="{y}" x2="{width - 10}" y2="{y}" stroke="#e8e8e8"/>')
        drawn.append(f'<text x="{left - 5}" y="{float(y) + 3}" font-size="9" text-anchor="end" fill="#666">{amount(value, unit)}</text>')
    for index, (one, lows) in enumerate(lines):
        color = COLORS[index % len(COLORS)]
        places = [(moment, at(moment, value + under), at(moment, under)) for (moment, value), under in zip(one.points, lows, strict=True)]
        for piece in _pieces(places, 2.5 * (end - start) / POINTS):
            if stacked and len(piece) > 1:
                outline = [above for above, _ in piece] + [below for _, below in reversed(piece)]
                drawn.append(f'<polygon points="{" ".join(outline)}" fill="{color}" fill-opacity="0.35"/>')
            line = " ".join(above for above, _ in piece)
            drawn.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.3"/>')
        across, down = left - 40 + index % 3 * ((width - 20) // 3), bottom + 16 + index // 3 * 14
        drawn.append(f'<rect x="{across}" y="{down - 7}" width="8" height="8" fill="{color}"/>')
        drawn.append(f'<text x="{across + 12}" y="{down}" font-size="10">{escape(one.name)}</text>')
    return "".join(drawn)


def _stacked(series: Sequence[Series]) -> list[tuple[Series, list[float]]]:
    """Return each series with the sum of the series below it at each of its points."""
    below: dict[float, float] = {}
    found: list[tuple[Series, list[float]]] = []
    for one in series:
        found.append((one, [below.get(moment, 0.0) for moment, _ in one.points]))
        for moment, value in one.points:
            below[moment] = below.get(moment, 0.0) + value
    return found


def _table(panel: Mapping[str, Any], ask: RunQuery, variables: Mapping[str, str], since: float) -> str:
    """Draw a table of the rows with a point after `since`, so that a phase that has ended is not shown."""
    (organize,) = [change["options"] for change in panel["transformations"] if change["id"] == "organize"]
    names, hidden = organize["renameByName"], organize["excludeByName"]
    units = {rule["matcher"]["options"]: rule["properties"][0]["value"] for rule in panel["fieldConfig"]["overrides"]}
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for target in panel["targets"]:
        column = f"Value #{target['refId']}"
        for labels, points in ask(substituted(target["expr"], variables)):
            if points[-1][0] <= since:
                continue
            row = rows.setdefault((labels.get("namespace", ""), labels.get("run", "")), {})
            row.update({names.get(label, label): value for label, value in labels.items()})
            if column not in hidden:
                row[names[column]] = amount(points[-1][1], units.get(names[column], "none"))
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [
        f'<text x="{12 + 150 * across}" y="{42 + 20 * down}" font-size="11" font-weight="{600 if not down else 400}">{escape(text)}</text>'
        for down, texts in enumerate([columns, *([row.get(column, "") for column in columns] for row in rows.values())])
        for across, text in enumerate(texts)
    ]
    return "".join(cells)


def prometheus_query(url: str, start: float, end: float) -> RunQuery:
    """Return a function that queries a Prometheus for about `POINTS` points between two times, in seconds since 1970."""

    def ask(expression: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        step = max(1.0, (end - start) / POINTS)
        query = urlencode({"query": expression, "start": start, "end": end, "step": step})
        with urlopen(f"{url}/api/v1/query_range?{query}", timeout=60) as response:  # noqa: S310 - the address is the caller's own
            found = json.load(response)["data"]["result"]
        return [(one["metric"], [(float(moment), float(value)) for moment, value in one["values"]]) for one in found]

    return ask


def picture(url: str, name: str, variables: Mapping[str, str], seconds: float, now: float) -> str:
    """Return the dashboard `name` with the last `seconds` of a Prometheus as SVG."""
    board = json.loads((FILES / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    defaults = {"namespace": ".*", "run": ".*", "__rate_interval": "30s"}
    return draw(board, prometheus_query(url, now - seconds, now), defaults | dict(variables), now - seconds, now)


def alerts(url: str, now: datetime) -> str:
    """Return all alerts of a Prometheus, with their states, as SVG."""
    with urlopen(f"{url}/api/v1/rules?type=alert", timeout=60) as response:  # noqa: S310 - the address is the caller's own
        rules = json.load(response)["data"]
    return as_svg(alert_table(rules, now), "Alerts in Prometheus", ALERT_COLUMNS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a picture to standard output."""
    parser = argparse.ArgumentParser(prog="python -m halcyon_dashboards.picture", description="A dashboard, or all alerts, as SVG.")
    parser.add_argument("url", help="address of Prometheus")
    boards = sorted(path.stem for path in (FILES / "dashboards").glob("*.json"))
    parser.add_argument("dashboard", choices=[*boards, ALERTS])
    parser.add_argument("--set", action="append", default=[], metavar="VARIABLE=VALUE", help="a variable of the dashboard")
    parser.add_argument("--minutes", type=float, default=15)
    asked = parser.parse_args(arguments)
    if asked.dashboard == ALERTS:
        sys.stdout.write(alerts(asked.url, datetime.now(UTC)))
        return 0
    variables = dict(text.split("=", 1) for text in asked.set)
    sys.stdout.write(picture(asked.url, asked.dashboard, variables, 60 * asked.minutes, time.time()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
