"""What an image and a class are called in files made elsewhere, such as masks and maps."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

_OTHER_NAMES = {"Airspace Opacity": "Lung Opacity", "Lung Opacity": "Airspace Opacity"}
"""CheXlocalize's name for a class, and CheXpert's for the same one."""

_SUFFIXES = {"png", "jpg", "jpeg", "dcm", "tif", "tiff", "bmp"}


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which equal names are equal."""
    return unicodedata.normalize("NFC", name)


def alike(name: str) -> str:
    """Return what two names share that differ in Unicode form, case, or spaces, dashes and underscores alone.

    >>> alike("Pleural_Thickening ") == alike("pleural thickening")
    True
    """
    return " ".join(composed(name).casefold().replace("_", " ").replace("-", " ").split())


def image_names(image: str) -> set[tuple[int, str]]:
    """Return what an image may be called, with how many folders of its path are left out.

    With or without its suffix, slashes as underscores or not: ``test/patient1/view1.jpg`` is ``test_patient1_view1``
    (0) and ``patient1_view1`` (1). A name may be that of two images, see `owners`.
    """
    image = composed(image)
    stem, _, suffix = image.rpartition(".")
    names = (image, stem) if suffix.lower() in _SUFFIXES else (image,)
    return {
        (depth, joint.join(parts[depth:]))
        for parts in (name.split("/") for name in names)
        for depth in range(len(parts))
        for joint in "/_"
    }


def owners(names: Iterable[str], images: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Return the images that each name may mean: those with that whole name, else those whose path ends in it."""
    wanted = {composed(name) for name in names}
    whole: defaultdict[str, list[str]] = defaultdict(list)
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        for depth, name in image_names(image):
            if name in wanted:
                (ends if depth else whole)[name].append(image)
    return {**ends, **whole}


def other_name(name: str, classes: Collection[str]) -> str | None:
    """Return what else a class is called in published files, None if nothing or if that is one of the classes too."""
    other = _OTHER_NAMES.get(name)
    return None if other in classes else other
