"""How a report's figures look, and how they become SVG and PNG. No pyplot: nothing is kept between figures."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure, FigureBase

from trudi.train.errors import TrainError

# Okabe and Ito's colours, told apart by people who are colour-blind; the yellow one is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (6, 2, 1, 2)),
    (0, (1, 1.5)),
    (0, (8, 2, 2, 2, 2, 2)),
    (0, (3, 1)),
    (0, (1, 4)),
)
MARKERS = "osD^vPX"
INK, FAINT = "#222222", "#bbbbbb"
WIDTH, HEIGHT = 4.2, 2.8
"""Of a panel, in inches: one column on a phone."""
LABEL_WIDTH = 14
"""Letters of a line of a label."""
LINE_HEIGHT = 0.068
"""Of a label, as a share of the axes."""
LEFT, BOTTOM, RIGHT, TOP = 0.15, 0.18, 0.7, 0.89
RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trudi",
    "text.parse_math": False,  # a dollar sign in a name is one
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Style:
    """Of one variant, in every figure."""

    color: str
    dash: Any
    marker: str


@dataclass(frozen=True)
class Panel:
    """One small figure."""

    name: str
    """Letters, digits and hyphens; unique in a report."""
    caption: str
    """What it shows, in words, for who cannot see it."""
    draw: Callable[[FigureBase], None]
    height: float = HEIGHT


def styles(variants: Sequence[str]) -> dict[str, Style]:
    """Colour, dashes and marker of each variant; each of the three repeats after seven."""
    return {
        variant: Style(COLOURS[i % 7], DASHES[(i + i // 7) % 7], MARKERS[(i + i // 7) % 7])
        for i, variant in enumerate(variants)
    }


def slug(text: str) -> str:
    """A name as a part of a file's name and of an id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "unnamed"


def add_axes(figure: FigureBase, title: str, right: float = RIGHT, left: float = LEFT) -> Axes:
    """Axes with room for labels at their right."""
    axes = figure.add_axes((left, BOTTOM, right - left, TOP - BOTTOM))
    axes.set_title(title, loc="left")
    return axes


def plain_ticks(axes: Axes, which: str = "y") -> None:
    """Numbers as they are read, without exponents set as formulas."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(lambda value, _position: f"{value:g}")
    axis.set_minor_formatter(lambda _value, _position: "")


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Names (label, x, y, colour) to the right of the axes, each as near to its line's end as others leave room for."""
    low, high = axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    wrapped = [("\n".join(textwrap.wrap(label, LABEL_WIDTH)), x, y, colour) for label, x, y, colour in ends]
    placed = sorted(wrapped, key=lambda each: each[2])
    heights = [LINE_HEIGHT * (1 + text.count("\n")) + 0.015 for text, *_ in placed]
    wanted = [float(to_axes.transform((x, min(max(y, low), high)))[1]) for _, x, y, _ in placed]
    for (text, x, y, colour), middle in zip(placed, spread(wanted, heights), strict=True):
        axes.annotate(
            text,
            xy=(x, min(max(y, low), high)),
            xytext=(1.04, middle),
            textcoords="axes fraction",
            color=colour,
            fontsize=8.5,
            va="center",
            linespacing=1.0,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": colour, "shrinkA": 1.0, "shrinkB": 0.0},
        )


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles of boxes in ascending order that do not overlap: pushed up from below, then down from above 1."""
    middles = list(wanted)
    for i in range(1, len(middles)):
        middles[i] = max(middles[i], middles[i - 1] + 0.5 * (heights[i - 1] + heights[i]))
    ceiling = 1.0
    for i in reversed(range(len(middles))):
        middles[i] = min(middles[i], ceiling - 0.5 * heights[i])
        ceiling = middles[i] - 0.5 * heights[i]
    return middles


def to_svg(panel: Panel) -> str:
    """The panel as an SVG element: as wide as its place, with ids of its own, without a date."""
    with look():
        figure = Figure(figsize=(WIDTH, panel.height))
        FigureCanvasSVG(figure)
        panel.draw(figure)
        text = StringIO()
        figure.savefig(text, format="svg")
    body = text.getvalue()
    return _own_ids(_shorter(body[body.index("<svg") :]), panel.name).strip()


def to_png(panels: Sequence[Panel], path: Path, columns: int = 3) -> None:
    """Panels side by side as one PNG, without a date; TrainError where it cannot be written."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height = max(panel.height for panel in panels)
    with look():
        figure = Figure(figsize=(columns * WIDTH, rows * height))
        FigureCanvasAgg(figure)
        places = figure.subfigures(rows, columns, squeeze=False)
        for place, panel in zip(places.flat, panels, strict=False):
            panel.draw(place)
        try:
            figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
        except OSError as error:
            raise TrainError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def look() -> Generator[None]:
    """The settings of every figure, for the length of a block."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def _shorter(svg: str) -> str:
    """Without what a page does not need: a tenth of a point is finer than a screen, and a size in points fits no phone."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)  # the date, above all
    svg = re.sub(r' (?:width|height)="[0-9.]+pt"', "", svg)
    svg = re.sub(r' xmlns:xlink="[^"]*"| version="1.1"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"| ?font-family: 'DejaVu Sans', sans-serif;", "", svg)
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: _rounded(path[0]).replace("\n", ""), svg)
    svg = re.sub(r' (?:x|y)="[^"]*"', lambda place: _rounded(place[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    return re.sub(r'(<use [^>]*?)( style="[^"]*")/>(?:\n<use [^>]*?\2/>)+', _styled_once, svg)


def _rounded(numbers: str) -> str:
    return re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", numbers)


def _styled_once(uses: re.Match[str]) -> str:
    """Neighbours that look the same say so once."""
    return f"<g{uses[2]}>{uses[0].replace(uses[2], '')}</g>"


def _own_ids(svg: str, name: str) -> str:
    """Ids that something refers to, made unique in a page; the others left out."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    prefix = f"f{hashlib.sha256(name.encode()).hexdigest()[:8]}-"
    short = {each: f"{prefix}{index}" for index, each in enumerate(sorted(used))}
    svg = re.sub(r' id="([^"]*)"', lambda match: f' id="{short[match[1]]}"' if match[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)([^)"]+)', lambda match: match[1] + short[match[2]], svg)
