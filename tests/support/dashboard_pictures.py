"""The dashboard's panels as pictures: Grafana's layout, drawn from what a Prometheus answers."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from dashboards import dashboard
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image
from prometheus_server import PrometheusServer

_COLUMNS: Final = 24
_WIDTH_IN: Final = 12.0
_UNIT_IN: Final = 0.34
_DPI: Final = 110
_INK: Final = {"page": "#111217", "panel": "#181b1f", "text": "#ccccdc", "grid": "#2c3036"}
_COLOURS: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#e02f44", "#b877d9", "#8ab8ff")
_NUM_POINTS: Final = 240
_EXPORT_S: Final = 10.0
"""How often Ray exports; between, a line would show nothing but steps."""
_STYLE: Final[Any] = {"font.family": "DejaVu Sans", "font.size": 7.5, "axes.linewidth": 0.6}


@dataclass(frozen=True)
class TimeRange:
    """What is shown, in Unix seconds."""

    start_s: float
    end_s: float
    rate_interval: str


def draw_dashboard(prometheus: PrometheusServer, shown: TimeRange, folder: Path) -> list[Path]:
    """Draw each row of the dashboard into a file of its own, and return the files."""
    files = []
    for number, (title, panels) in enumerate(_rows(), start=1):
        file = folder / f"{number}-{_to_file_name(title)}.png"
        with mpl.rc_context(_STYLE):
            _save(_draw_row(title, panels, prometheus, shown), file)
        files.append(file)
    return files


def _rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    title, panels = "", list[dict[str, Any]]()
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            if panels:
                yield title, panels
            title, panels = panel["title"], []
        else:
            panels.append(panel)
    yield title, panels


def _draw_row(
    title: str, panels: list[dict[str, Any]], prometheus: PrometheusServer, shown: TimeRange
) -> Figure:
    top = min(panel["gridPos"]["y"] for panel in panels)
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    height_in = _UNIT_IN * (bottom - top) + 0.4
    figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, facecolor=_INK["page"])
    figure.text(0.008, 1 - 0.26 / height_in, title, color=_INK["text"], fontsize=11, weight="bold")
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / _COLUMNS, place["w"] / _COLUMNS
        panel_top = 1 - (0.4 + _UNIT_IN * (place["y"] - top)) / height_in
        panel_height = _UNIT_IN * place["h"] / height_in
        box = (left + 0.004, panel_top - panel_height + 0.05 / height_in)
        frame = figure.add_axes((*box, width - 0.008, panel_height - 0.1 / height_in))
        frame.set_facecolor(_INK["panel"])
        frame.set_xticks([])
        frame.set_yticks([])
        _paint_edges(frame)
        frame.text(
            0.02,
            0.97,
            panel["title"],
            transform=frame.transAxes,
            va="top",
            color=_INK["text"],
            fontsize=8.5,
        )
        series = list(_query(panel, prometheus, shown))
        inner = frame.inset_axes((0.115, 0.29, 0.865, 0.55))
        draw = _draw_stat if panel["type"] == "stat" else _draw_lines
        draw(inner, series, panel, shown)
    return figure


def _query(
    panel: dict[str, Any], prometheus: PrometheusServer, shown: TimeRange
) -> Iterator[tuple[str, "np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]:
    step_s = max(_EXPORT_S, (shown.end_s - shown.start_s) / _NUM_POINTS)
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", shown.rate_interval)
        for one in prometheus.query_range(
            expression, start_s=shown.start_s, end_s=shown.end_s, step_s=step_s
        ):
            points = np.array([(at, float(value)) for at, value in one["values"]])
            name = _name(target["legendFormat"], one["metric"])
            yield name, points[:, 0] - shown.start_s, points[:, 1]


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match[1], ""), legend).strip()


def _draw_lines(axes: Axes, series: list[Any], panel: dict[str, Any], shown: TimeRange) -> None:
    axes.set_facecolor(_INK["panel"])
    _paint_edges(axes)
    axes.grid(color=_INK["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK["text"], length=0, labelsize=7)
    axes.set_xlim(0, shown.end_s - shown.start_s)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{int(s) // 60}:{int(s) % 60:02}"))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 1.5, 3, 6]))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(_formatter(_unit_of(panel))))
    seen = [one for one in series if np.isfinite(one[2]).any()]
    # `or vector(0)` is for a panel that would be empty, and adds nothing to one that is not.
    seen = [one for one in seen if one[0]] or seen
    if not seen:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, color="#8e8e9a", ha="center")
        axes.set_yticks([])
        return
    for colour, (name, seconds, values) in zip(_cycle(len(seen)), seen, strict=True):
        axes.plot(seconds, values, color=colour, linewidth=1.2, label=name or "none")
        axes.fill_between(seconds, 0, np.nan_to_num(values), color=colour, alpha=0.08, linewidth=0)
    axes.set_ylim(bottom=0)
    if not any(np.nan_to_num(values).any() for _, _, values in seen):
        axes.set_ylim(0, 1)
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.1, -0.16),
        ncols=min(3, len(seen)),
        frameon=False,
        fontsize=7,
        handlelength=1.0,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    for text in legend.get_texts():
        text.set_color(_INK["text"])


def _draw_stat(axes: Axes, series: list[Any], panel: dict[str, Any], shown: TimeRange) -> None:
    axes.set_axis_off()
    values = [values[np.isfinite(values)] for _, _, values in series]
    last = [each[-1] for each in values if len(each)]
    text = _formatter(_unit_of(panel))(last[0], 0) if last else "No data"
    colour = _colour_of(panel, last[0]) if last else _INK["text"]
    axes.text(0.44, 0.42, text, ha="center", va="center", fontsize=34, color=colour)


def _colour_of(panel: dict[str, Any], value: float) -> str:
    names = {"green": _COLOURS[0], "yellow": _COLOURS[1], "orange": _COLOURS[3], "red": _COLOURS[4]}
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    reached = [s["color"] for s in steps if s.get("value") is None or value >= s["value"]]
    return names.get(reached[-1], _COLOURS[0]) if reached else _COLOURS[0]


def _unit_of(panel: dict[str, Any]) -> str:
    return str(panel["fieldConfig"]["defaults"].get("unit", "none"))


def _formatter(unit: str) -> Callable[[float, object], str]:
    def format_value(value: float, _: object) -> str:
        match unit:
            case "percentunit":
                return f"{100 * value:.3g} %"
            case "s":
                return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
            case "bytes":
                return f"{value / 2**30:.3g} GiB"
            case "reqps" | "ops":
                return f"{value:.3g}/s"
            case _:
                return f"{value:.4g}"

    return format_value


def _cycle(number: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(number)]


def _paint_edges(axes: Axes) -> None:
    for edge in axes.spines.values():
        edge.set_color(_INK["grid"])


def _to_file_name(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def _save(figure: Figure, file: Path) -> None:
    """Save with few colours, which a drawing of lines has anyway."""
    content = BytesIO()
    figure.savefig(content, format="png", facecolor=figure.get_facecolor())
    image = Image.open(content).convert("RGB")
    image.quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)
