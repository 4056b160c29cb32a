"""Varied copies of training images: a function of the id and the copy's number, within the bounds that are stated."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from xaibench.training.views import EXPOSURE, MOVE, SCALE, TURN, vary

IDS = ["a", "b", "c", "d"]


def pictures(size: int = 32) -> torch.Tensor:
    return torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(0))


def test_copy_0_is_the_image_itself() -> None:
    images = pictures()
    assert vary(images, IDS, 0) is images


@given(st.permutations(range(4)), st.integers(1, 8))
def test_a_copy_depends_on_its_image_and_number_alone(order: list[int], copy: int) -> None:
    images = pictures()
    whole = vary(images, IDS, copy)
    turned = vary(images[order], [IDS[i] for i in order], copy)
    assert torch.equal(turned, whole[order])
    assert not torch.equal(whole, vary(images, IDS, copy + 1))


def test_copies_keep_to_eight_bits() -> None:
    copy = vary(pictures(), IDS, 1)
    assert copy.min() >= 0
    assert copy.max() <= 1
    assert torch.equal((copy * 255).round() / 255, copy)


def test_a_grey_image_is_only_exposed_otherwise() -> None:
    half = torch.full((4, 1, 16, 16), 0.5)
    copy = vary(half, IDS, 3)
    assert (copy.flatten(1).amax(1) == copy.flatten(1).amin(1)).all()
    # Half a grey level for the rounding.
    assert copy.min() >= 0.5 ** math.exp(EXPOSURE) - 0.5 / 255
    assert copy.max() <= 0.5 ** math.exp(-EXPOSURE) + 0.5 / 255


def test_a_point_moves_no_further_than_the_bounds_allow() -> None:
    size, spots = 129, (20, 64, 108)
    images = torch.zeros(100, 1, size, size)
    for row in spots:
        for column in spots:
            images[:, 0, row - 1 : row + 2, column - 1 : column + 2] = 1
    names = [str(n) for n in range(100)]
    moved = vary(images, names, 1)[:, 0]
    middle = moved[:, 64 - 16 : 64 + 17, 64 - 16 : 64 + 17]
    where = torch.linspace(-16, 16, 33)
    mass = middle.sum(dim=(1, 2))
    shift = torch.stack([(middle.sum(1) * where).sum(1), (middle.sum(2) * where).sum(1)], 1) / mass[:, None]
    bound = size * MOVE * (1 + SCALE) * (1 + TURN)
    assert shift.abs().max() <= bound + 1
    assert shift.abs().max() > 0.6 * bound  # 100 uniform draws of each: one is near the edge
    assert shift.mean(dim=0).abs().max() < 2  # four standard errors of 100 draws: 4 * 7.7 / sqrt(3 * 100) = 1.8
