"""The benchmark's ``[dataset.options]`` of folder, validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from xaibench.errors import UsageError, did_you_mean
from xaibench.io.limits import check_name

_PLACES = ("table", "coco", "boxes", "masks", "images")
_CHOICES = {"orientation": ("exif", "stored"), "range": ("full", "stored", "percentile")}


@dataclass(frozen=True)
class Options:
    """What describes the images, and how files become numbers; see docs/folder.md.

    Attributes:
        oriented: whether the benchmark names `orientation` itself; a COCO file's sizes decide otherwise.
    """

    table: str = ""
    coco: str = ""
    boxes: str = ""
    masks: str = ""
    images: str = "."
    image_column: str = "image"
    label_column: str = ""
    class_column: str = "class"
    patient_column: str = ""
    split_column: str = ""
    negative_class: str = "No Finding"
    val_fraction: float = 0.1
    test_fraction: float = 0.25
    split_seed: int = 0
    color: bool = False
    orientation: str = "exif"
    range: str = "full"
    oriented: bool = False


DEFAULTS: Mapping[str, Any] = {name: value for name, value in asdict(Options()).items() if name != "oriented"}


def parse_options(given: Mapping[str, Any]) -> Options:
    """Validate options.

    Raises:
        UsageError: an unknown option, a wrong value, or options that exclude each other.

    >>> parse_options({"table": "labels.csv"}).range
    'full'
    >>> parse_options({"tabel": "labels.csv"})
    Traceback (most recent call last):
    xaibench.errors.UsageError: folder has no option 'tabel'. Did you mean 'table'?
    """
    for name, value in given.items():
        _check(name, value)
    options = Options(**given, oriented="orientation" in given)
    if bool(options.table) == bool(options.coco):
        raise UsageError('folder: give one of the options table = "labels.csv" and coco = "annotations.json"')
    for name in ("boxes", "masks"):
        if options.coco and getattr(options, name):
            raise UsageError(f"folder: {name} goes with table; a COCO file brings its own: leave {name} out")
    if options.boxes and options.masks:
        raise UsageError("folder: give boxes or masks: each mask brings its bounding box")
    return options


def _check(name: str, value: Any) -> None:
    if name not in DEFAULTS:
        raise UsageError(f"folder has no option {name!r}. {did_you_mean(name, DEFAULTS)}")
    wanted = float if isinstance(DEFAULTS[name], float) else type(DEFAULTS[name])
    allowed = (int, float) if wanted is float else wanted
    if not isinstance(value, allowed) or (wanted is not bool and isinstance(value, bool)):
        raise UsageError(f"folder: {name} = {value!r}; it is a {wanted.__name__}")
    if name in _PLACES and value:
        try:
            check_name(value)
        except ValueError as error:
            raise UsageError(f"folder: {name}: {error}: it is looked for in the data root") from None
    if name.endswith("_fraction") and not 0 <= value < 1:
        raise UsageError(f"folder: {name} = {value!r}; it is a share, from 0 to below 1")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise UsageError(f"folder: {name} = {value!r}; it is one of {', '.join(_CHOICES[name])}")
