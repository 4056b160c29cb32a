"""Contact sheets: X-rays with the coloured map over them and the lesion's box in blue, hits and misses."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.reporting.figures.lettering import FONT, fit_text
from xaibench.reporting.figures.tiles import Tile
from xaibench.types import FloatArray, Frame

Colours = Literal["signed", "cividis", "jet"]

FOR = ((1.0, 0.62, 0.10), (0.93, 0.03, 0.03))
"""Weak and strong evidence for the class: amber to red, ever more opaque."""
AGAINST = (0.0, 0.62, 0.45)
"""Evidence against: bluish green (Okabe and Ito), fainter, so that it reads as less to colour-blind eyes too."""
BOX = "#2e8bff"
_OPACITY_FOR, _OPACITY_AGAINST, _OPACITY_OTHER = 0.85, 0.30, 0.6
_DARK = [withStroke(linewidth=2.4, foreground="black", alpha=0.55)]

_TILE, _GAP, _LEFT, _RIGHT = 1.75, 0.10, 0.15, 0.95  # inches
_LEAST_WIDTH = 6.4  # the legend's
_HEAD, _NAME, _CAPTION, _ROW_GAP, _FOOT = 1.05, 0.34, 0.36, 0.16, 0.10
_DPI, _LEAST_DPI, _MAX_BYTES = 150, 40.0, 1_900_000
_COMPRESSION = 4  # of 9: two fifths of the time of zlib's default, 6, for a twentieth more bytes
_LEAST_BYTES_PER_PIXEL = 0.25  # of sheets seen: it spares drawing at a resolution that is too high for sure
_SIX_BITS = np.round(np.round(np.arange(256) / 255 * 63) / 63 * 255).astype(np.uint8)
_MOST_ROWS_WITH_PLAIN = 6
_LEGEND = (
    "Red: evidence for the row's class; green: evidence against it. Blue box: the lesion. White cross: the map's peak.",
    "Full colour: the largest absolute value of the maps in the row (numbers at the bar). Hit: the peak is in a box.",
)


def contact_sheet(
    tiles: Mapping[str, Sequence[Tile]], *, title: str, columns: int = 4, max_bytes: int = _MAX_BYTES
) -> bytes:
    """Return a PNG with a row for each class: X-rays with the map and the boxes over them, the bare ones above.

    With more than six classes the bare ones are left out.
    Colours run from minus to plus the largest absolute value among the row's maps, so tiles of a row compare; the bar
    beside the row says which value that is. The same tiles give the same bytes.

    Args:
        tiles: class name to its tiles; the first `columns` of each are shown.
        title: one line above.
        columns: tiles in a row.
        max_bytes: the resolution, 150 dots an inch, falls until the file is smaller.

    Raises:
        UsageError: no tile at all, or no column.
    """
    rows = {name: list(row)[:columns] for name, row in tiles.items() if row}
    if not rows or columns < 1:
        raise UsageError("a contact sheet needs at least one tile and one column")
    return encode_png(_draw(rows, columns, title), max_bytes)


def overlay(image: FloatArray, heat: FloatArray, scale: float, colours: Colours = "signed") -> npt.NDArray[np.float64]:
    """Lay a signed map over a grey image.

    Args:
        image: (H, W) float in [0, 1].
        heat: (H, W) float; values that are not finite stay uncoloured.
        scale: the absolute value that gets the full colour; 0 colours nothing.
        colours: "signed": amber to red for, bluish green against, clear at 0. "cividis" and "jet" colour the positive
            part, as older papers do, and all else as 0; jet suggests borders that the map has not.

    Returns:
        (H, W, 3) float64 in [0, 1].

    >>> overlay(np.zeros((1, 2)), np.array([[2.0, 0.0]]), 2.0).round(2).tolist()
    [[[0.79, 0.03, 0.03], [0.0, 0.0, 0.0]]]
    """
    grey = np.clip(np.nan_to_num(image.astype(np.float64)), 0, 1)[..., None]
    share = np.zeros_like(grey)
    if scale > 0:
        share = np.clip(np.nan_to_num(heat.astype(np.float64) / scale, posinf=0, neginf=0), -1, 1)[..., None]
    strong = np.clip(share, 0, 1)
    if colours != "signed":
        cover = _OPACITY_OTHER if scale > 0 else 0.0
        painted: npt.NDArray[np.float64] = np.asarray(colormaps[colours](strong[..., 0]))[..., :3]
        mixed: npt.NDArray[np.float64] = (1 - cover) * grey + cover * painted
        return mixed
    colour = np.where(share >= 0, (1 - strong) * np.array(FOR[0]) + strong * np.array(FOR[1]), np.array(AGAINST))
    opacity = np.where(share >= 0, _OPACITY_FOR * share, -_OPACITY_AGAINST * share)
    blended: npt.NDArray[np.float64] = (1 - opacity) * grey + opacity * colour
    return blended


def _draw(rows: Mapping[str, Sequence[Tile]], columns: int, title: str) -> Figure:
    bare = _TILE + _GAP / 2 if len(rows) <= _MOST_ROWS_WITH_PLAIN else 0.0
    row_height = _NAME + bare + _TILE + _CAPTION + _ROW_GAP
    width = max(_LEFT + columns * (_TILE + _GAP) + _RIGHT - _GAP, _LEAST_WIDTH)
    height = _HEAD + len(rows) * row_height + _FOOT
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, top: float, text: str, size: float, room: float, **style: Any) -> None:
        """Write one line at (x, top) in inches from the upper left corner, made to fit."""
        label = figure.text(x / width, 1 - top / height, "", fontsize=size, family=FONT, va="top", parse_math=False)
        label.set(**style)
        fit_text(label, text, room)

    room = width - 2 * _LEFT
    write(_LEFT, 0.14, title, 12, room, weight="bold")
    for line, text in enumerate(_LEGEND):
        write(_LEFT, 0.45 + 0.19 * line, text, 8, room, color="0.25")
    for index, (name, row) in enumerate(rows.items()):
        top = _HEAD + index * row_height
        write(_LEFT, top, name, 10.5, room, weight="bold")
        scale = largest_value(row)
        upper = top + _NAME - 0.06
        for column, tile in enumerate(row):
            left = _LEFT + column * (_TILE + _GAP)
            lower = upper + bare
            for y, limit in ((upper, 0.0), (lower, scale)) if bare else ((lower, scale),):
                axes = figure.add_axes((left / width, 1 - (y + _TILE) / height, _TILE / width, _TILE / height))
                show_picture(axes, overlay(tile.image, tile.map, limit))
            _draw_peak(axes, tile)
            draw_boxes(axes, tile)
            word, colour = verdict(tile)
            write(left, lower + _TILE + 0.05, word, 7.5, _TILE, weight="bold", color=colour)
            write(left, lower + _TILE + 0.19, tile.image_id, 6.5, _TILE, color="0.35")
        bar_left = _LEFT + columns * (_TILE + _GAP)
        tall = bare + _TILE
        place = (bar_left / width, 1 - (upper + tall) / height, 0.13 / width, tall / height)
        colour_bar(figure.add_axes(place), scale)
    return figure


def largest_value(row: Sequence[Tile]) -> float:
    """Return the largest absolute finite value of the tiles' maps: what gets the full colour."""
    peaks = [float(np.abs(tile.map[np.isfinite(tile.map)]).max(initial=0.0)) for tile in row]
    return max(peaks)


def show_picture(axes: Axes, picture: FloatArray) -> None:
    """Show an (H, W, 3) picture, without axes, in coordinates at its pixels' edges."""
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="bilinear", aspect="equal")
    axes.set_axis_off()


def draw_boxes(axes: Axes, tile: Tile) -> None:
    """Draw a tile's boxes in blue, at their edges."""
    height, width = tile.image.shape
    if tile.region is not None:
        for x0, y0, x1, y1 in tile.region.to(Frame(height, width)).boxes:
            box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=BOX, linewidth=1.4, path_effects=_DARK)
            axes.add_patch(box)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _draw_peak(axes: Axes, tile: Tile) -> None:
    maxima = np.argwhere(
        _ops.maxima(torch.from_numpy(np.asarray(tile.map))[None])[0].numpy()
    )  # the peaks that are scored
    if len(maxima) == 1:
        y, x = maxima[0] + 0.5
        axes.plot([x], [y], "x", color="white", markersize=4.5, markeredgewidth=1.1, path_effects=_DARK)


def verdict(tile: Tile) -> tuple[str, str]:
    """Return what a tile's caption says of it, and in which colour."""
    word, colour = {True: ("hit", "#00694c"), False: ("miss", "#b3261e"), None: ("no box", "0.35")}[tile.hit]
    if tile.hit is None and tile.region is not None:
        word = "undefined"
    if np.ptp(tile.map) == 0:
        word += ", constant map"
    if tile.score is not None and math.isfinite(tile.score):
        word += f" · {tile.score_name} {tile.score:.2f}"
    return word, colour


def colour_bar(axes: Axes, scale: float, colours: Colours = "signed") -> None:
    """Fill axes with the colours of `overlay` from -scale to scale, on grey."""
    values = np.linspace(1, -1, 201)[:, None]
    grey = np.full_like(values, 0.35)
    axes.imshow(overlay(grey, values, 1.0, colours), extent=(0, 1, -1, 1), aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    size = f"{scale:.3g}" if scale < 1000 else f"{scale:,.0f}"
    ends = [f"{sign}{size}" if scale > 0 else "" for sign in "-+"]
    axes.set_yticks([-1, 0, 1], [ends[0], "0", ends[1]], fontsize=6.5, family=FONT)
    axes.tick_params(length=2, pad=2)
    axes.set_ylabel("map value (no unit)", fontsize=7, family=FONT, labelpad=-6)


def encode_png(figure: Figure, max_bytes: int = _MAX_BYTES, most_dpi: float = _DPI) -> bytes:
    """Return the figure as PNG without date and version, at the highest resolution that keeps to the size.

    Colours keep 6 bits a channel: the noise of an X-ray fills the last two, which no eye sees and no PNG compresses.
    """
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    dpi = min(float(most_dpi), math.sqrt(max_bytes / _LEAST_BYTES_PER_PIXEL / math.prod(figure.get_size_inches())))
    while True:
        figure.set_dpi(dpi)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
        buffer = io.BytesIO()
        options = {"compress_level": _COMPRESSION, "dpi": (round(dpi), round(dpi))}
        Image.fromarray(_SIX_BITS[pixels]).save(buffer, format="png", **options)
        data = buffer.getvalue()
        if len(data) <= max_bytes or dpi <= _LEAST_DPI:
            return data
        dpi = max(_LEAST_DPI, dpi * min(0.95, 0.98 * math.sqrt(max_bytes / len(data))))
