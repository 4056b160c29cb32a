"""What a notebook shows: a run's tables as HTML, and a map over its image."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from xaibench.errors import UsageError
from xaibench.reporting.figures.contact_sheet import overlay as blend
from xaibench.reporting.tables.run import print_run
from xaibench.results.run import Run
from xaibench.types import FloatArray, Frame, Region

if TYPE_CHECKING:
    from PIL.Image import Image

_BOX = (255, 200, 0)
_STYLE = "font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px;line-height:1.25;overflow-x:auto"


def run_html(run: Run, width: int = 120) -> str:
    """Return the run's tables as HTML that stands alone, in colour, `width` columns wide."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    print_run(run, console)
    return console.export_html(inline_styles=True, code_format=f'<pre style="{_STYLE}"><code>{{code}}</code></pre>')


def overlay(image: FloatArray, heat: FloatArray, region: Region | None = None) -> Image:
    """Return a map over its image, evidence for the class in red, against it in green, and the boxes of a region.

    Args:
        image: (H, W), (1, H, W) or (3, H, W), in [0, 1].
        heat: (H, W), a map of `Explainer.explain`.
        region: drawn where given, whatever its frame.

    Raises:
        UsageError: shapes that do not belong together.
    """
    from PIL import Image, ImageDraw

    grey, heat = np.asarray(image, dtype=np.float64), np.asarray(heat, dtype=np.float64)
    grey = grey.mean(axis=0) if grey.ndim == 3 else grey
    if heat.ndim != 2 or grey.shape != heat.shape:
        raise UsageError(
            f"overlay: an image of shape {np.shape(image)} and a map of shape {np.shape(heat)}, not (H, W)"
        )
    finite = np.abs(heat[np.isfinite(heat)])
    scale = float(finite.max()) if finite.size else 0.0
    blended = blend(grey, heat, scale)
    picture = Image.fromarray((blended.clip(0, 1) * 255).round().astype(np.uint8))
    if region is not None:
        draw = ImageDraw.Draw(picture)
        for x0, y0, x1, y1 in region.to(Frame(*heat.shape)).boxes:
            draw.rectangle([x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)], outline=_BOX)
    return picture
