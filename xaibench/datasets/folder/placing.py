"""Which pixels coordinates are of: an image's size, its orientation, and the size that the annotator declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from xaibench.datasets.folder.items import Item, Refuse
from xaibench.datasets.folder.options import Options
from xaibench.datasets.raster import Header
from xaibench.types import Frame

_NOTES = {
    "turned": "images turned by their EXIF orientation",
    "as stored": "images left as they are stored in spite of an EXIF orientation: their annotations are for that size",
    "scaled": "images of another size than their annotations declare: these are scaled to the image",
}


def place(items: Sequence[Item], headers: Sequence[Header], options: Options, refuse: Refuse) -> list[str]:
    """Settle each image's orientation, its own size and the grid of its marks.

    A declared size decides: it is that of the image as viewers turn it, or as it is stored, or one of the same shape.
    Without one, or where both are of one size, the option `orientation` does.

    Returns:
        Notes for the user: how many images were turned or scaled.
    """
    counts: Counter[str] = Counter()
    for item, header in zip(items, headers, strict=True):
        wanted = header.orientation if options.orientation == "exif" else 1
        fitting = next(_fits(item.declared, header, wanted), None)
        if fitting is None or (fitting != wanted and options.oriented):
            refuse(_contradiction(item, header, wanted, fitting))
            fitting = wanted
        item.orientation, item.own = fitting, header.size(fitting)
        item.frame = item.declared or item.own
        counts["turned"] += item.orientation != 1
        counts["as stored"] += fitting != wanted and fitting == 1
        counts["scaled"] += item.frame != item.own
    return [f"{number:,} {_NOTES[what]}" for what, number in counts.items() if number]


def _fits(declared: Frame | None, header: Header, wanted: int) -> Iterator[int]:
    """Yield the orientations that a declared size fits, the best first."""
    both = (wanted, header.orientation if wanted == 1 else 1)
    if declared is None:
        yield wanted
        return
    yield from (orientation for orientation in both if declared == header.size(orientation))
    yield from (orientation for orientation in both if same_shape(declared, header.size(orientation)))


def same_shape(one: Frame, other: Frame) -> bool:
    """Return whether two sizes are of one picture: the shorter side of the smaller is right to within a pixel.

    >>> same_shape(Frame(1333, 2000), Frame(200, 300)), same_shape(Frame(1333, 2000), Frame(300, 200))
    (True, False)
    """
    small, large = sorted((one, other), key=lambda frame: max(frame.width, frame.height))
    if large.width >= large.height:
        return abs(small.height - large.height * small.width / large.width) <= 1
    return abs(small.width - large.width * small.height / large.height) <= 1


def _contradiction(item: Item, header: Header, wanted: int, fitting: int | None) -> str:
    declared, found = item.declared, header.size(wanted)
    assert declared is not None
    text = (
        f"{item.declared_by}: its annotations are for {declared.width} x {declared.height} pixels, but {item.id} has "
    )
    text += f"{found.width} x {found.height}"
    if fitting is not None:
        how = "turned by its EXIF orientation" if wanted != 1 else "as stored"
        return f"{text} {how}: leave the option orientation out, so that the size decides"
    return f"{text}: give the images that were annotated, or the width and height that they had"
