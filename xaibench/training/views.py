"""Views of a training image: copies that are moved, turned, scaled and exposed otherwise, each also mirrored.

A view is a number: twice the copy's number, plus one if it is mirrored; view 0 is the image itself. Copies are drawn
once for each image, so that a frozen body runs once over each.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TURN: Final = 0.12
"""Most that a copy is turned, in radians (7 degrees)."""
SCALE: Final = 0.12
MOVE: Final = 0.06
"""Most that a copy is moved, as a share of the image's side."""
EXPOSURE: Final = 0.25
"""Most of the gamma's logarithm: grey levels are raised to a power from 0.78 to 1.28."""


def vary(images: Tensor, ids: Sequence[str], copy: int) -> Tensor:
    """Return the copies of that number of images (B, C, H, W) in [0, 1]; copy 0 is the image itself.

    What is done to an image depends on its id and on `copy` alone. Borders are repeated outwards, grey levels rounded
    to 8 bits.
    """
    if copy == 0:
        return images
    draws = np.stack([np.random.default_rng((zlib.crc32(name.encode()), copy)).uniform(-1, 1, 5) for name in ids])
    turn, scale, x, y, exposure = torch.from_numpy(draws.astype(np.float32)).T
    turn, scale = turn * TURN, 1 + scale * SCALE
    cosine, sine = turn.cos() * scale, turn.sin() * scale
    rows = (torch.stack([cosine, -sine, 2 * MOVE * x], 1), torch.stack([sine, cosine, 2 * MOVE * y], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    exposed = moved.clamp(0, 1) ** torch.exp(exposure * EXPOSURE).view(-1, 1, 1, 1)
    return (exposed * 255).round() / 255
