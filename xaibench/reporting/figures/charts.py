"""Charts for print (forest plots, curves): what they share, and how a figure becomes PNG, PDF and SVG.

No colour alone tells two things apart: colours are Okabe and Ito's, in order, and lines differ in their dashes too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from xaibench.errors import UsageError, XaibenchError, did_you_mean
from xaibench.io.files import write_atomically
from xaibench.metrics.base import Metric
from xaibench.reporting.figures.contact_sheet import encode_png
from xaibench.reporting.figures.lettering import FONT, every_letter, fit_text
from xaibench.reporting.html.data import Report, clean
from xaibench.results.run import MACRO

Format = Literal["png", "pdf", "svg"]
FORMATS: tuple[Format, ...] = ("png", "pdf", "svg")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, "Color Universal Design" (2008), without yellow, which white paper swallows."""
GREY = "#6b7580"
"""Of baselines."""
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.6, 1.2, 1.6)), (0, (9, 2)))
CHANCE: dict[str, Any] = {"color": "0.25", "linestyle": (0, (4, 3)), "linewidth": 1.0}

DPI, MAX_BYTES = 300, 1_500_000
WIDTH, MARGIN = 7.5, 0.08  # inches: a text width


class Sheet:
    """A figure whose places are in inches from the upper left corner; whatever is written is text, never mathtext."""

    def __init__(self, height: float, width: float = WIDTH) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def write(self, x: float, top: float, text: str, size: float, room: float, **style: Any) -> Text:
        """Write one line, made to fit `room` inches; ``va`` is "top" unless `style` says otherwise."""
        place = (x / self.width, 1 - top / self.height)
        label = self.figure.text(*place, "", fontsize=size, family=FONT, va="top", parse_math=False)
        label.set(**style)
        fit_text(label, text, room)
        return label

    def line(self, x: float, y: float, length: float, **style: Any) -> None:
        """Draw a level line, such as a legend's sample."""
        ends = [x / self.width, (x + length) / self.width]
        self.figure.add_artist(Line2D(ends, [1 - y / self.height] * 2, transform=self.figure.transFigure, **style))

    def axes(self, x: float, top: float, width: float, height: float) -> Axes:
        """Add axes without the upper and the right spine, with a faint grid."""
        rectangle = (x / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(rectangle)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color="0.4", linewidth=0.7)
        axes.tick_params(labelsize=7, labelfontfamily=FONT, length=2.5, width=0.7, color="0.4")
        axes.grid(color="0.92", linewidth=0.7)
        axes.set_axisbelow(True)
        return axes


@dataclass(frozen=True)
class Look:
    """How a method's line is drawn."""

    color: str
    linestyle: Any
    baseline: bool


def looks(baseline: Sequence[bool]) -> list[Look]:
    """Return a look for each line, no two alike up to 35 lines: colours first; grey and dashed for baselines."""
    found, counts = [], {True: 0, False: 0}
    for one in baseline:
        own = counts[one]
        counts[one] += 1
        if one:
            found.append(Look(GREY, DASHES[1 + own % (len(DASHES) - 1)], True))
        else:
            # the dash moves on with the colour, so that neighbours differ in grey print too
            turn, colour = divmod(own, len(COLOURS))
            found.append(Look(COLOURS[colour], DASHES[(colour + turn) % len(DASHES)], False))
    return found


def chosen_classes(report: Report, names: Sequence[str], there: Sequence[str]) -> list[str]:
    """Return the classes to draw: those asked for, or all of `there`.

    Raises:
        UsageError: a class that the benchmark has not.
    """
    known = [*report.classes, MACRO]
    for name in names:
        if name not in known:
            raise UsageError(f"--class {name}: the benchmark has no such class. {did_you_mean(name, known)}")
    return [name for name in there if not names or name in names]


def chosen_metrics(report: Report, names: Sequence[str]) -> dict[str, Metric]:
    """Return the benchmark's metrics that are asked for, or all that the registry has.

    Raises:
        UsageError: a metric that the benchmark does not measure.
    """
    known = {spec.name: report.metrics[spec.name] for spec in report.benchmark.metrics if spec.name in report.metrics}
    for name in names:
        if name not in known:
            raise UsageError(f"--metric {name}: the runs did not measure it. {did_you_mean(name, known)}")
    return {name: metric for name, metric in known.items() if not names or name in names}


def class_title(name: str) -> str:
    """Return what a chart calls a class or the mean over them."""
    return "Mean over the classes" if name == MACRO else name


def source(report: Report) -> str:
    """Say which classifiers on which benchmark."""
    return clean(f"{', '.join(dict.fromkeys(run.classifier for run in report.runs))} on {report.benchmark.name}")


def save(figure: Figure, stem: Path, formats: Sequence[Format]) -> list[Path]:
    """Write a figure in each format and return the files. None holds a date: the same figure gives the same bytes.

    PDF embeds TrueType letters; SVG keeps text as text.

    Raises:
        XaibenchError: a file can't be written.
    """
    png = encode_png(figure, MAX_BYTES, DPI) if "png" in formats else b""
    figure.set_dpi(DPI)

    def pdf(part: Path) -> None:
        with mpl.rc_context({"pdf.fonttype": 42}):  # TrueType: letters, not drawings of them
            figure.savefig(part, format="pdf", dpi=DPI, metadata={"CreationDate": None})

    def svg(part: Path) -> None:
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xaibench"}), every_letter(figure):
            figure.savefig(part, format="svg", dpi=DPI, metadata={"Date": None})

    writers: Mapping[Format, Callable[[Path], Any]] = {
        "png": lambda part: part.write_bytes(png),
        "pdf": pdf,
        "svg": svg,
    }
    written = []
    for form in dict.fromkeys(formats):
        path = stem.with_name(f"{stem.name}.{form}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, writers[form])
        except OSError as error:
            raise XaibenchError(f"can't write {path}: {error.strerror or error}") from error
        written.append(path)
    return written


def slug(name: str) -> str:
    """Return a file name's part: ASCII letters and digits, or "class" where none is left.

    >>> slug("Visible at <0.5>"), slug("気胸")
    ('visible-at-0-5', 'class')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40] or "class"
