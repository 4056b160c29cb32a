"""``maps:DIR``: maps made elsewhere, so that any method in any language can be compared."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.datasets.names import composed, image_names, other_name, owners
from xaibench.errors import DataError, UsageError, first_line
from xaibench.explainers.base import Explainer, upsample
from xaibench.explainers.plain_pickle import read_pickle
from xaibench.io.limits import UNREADABLE, check_pixels, open_image
from xaibench.types import Frame, Prediction

SUFFIXES = (".npy", ".png", ".pkl", ".pickle")


class Maps(Explainer):
    """Maps from files, in the frame of the image: of any size in the proportions of the image, or of the input.

    They are brought to the frame of the scores in one step, see `upsample`.

    A file is named ``IMAGE_CLASS`` or stands as ``CLASS/IMAGE``, where IMAGE is the image's id with or without its
    suffix, slashes as underscores, and spaces of CLASS may be underscores. CheXlocalize's ``IMAGE_CLASS_map.pkl`` is
    understood too: there IMAGE may be the end of the path of one image, and CheXpert's Lung Opacity is Airspace
    Opacity. It is one of

    - ``.npy``: (H, W) numbers (leading axes of length 1 are dropped), never pickled objects;
    - ``.png``: grey of 8 or 16 bits, read as 0 to 1;
    - ``.pkl``: CheXlocalize's dictionary with ``map``, or an array or tensor; read without executing it.

    Metrics that explain a changed image, or with changed weights, are given up: these maps would stay as they are.

    Args:
        folder: where the maps are, at any depth.
        allow_missing: a map that is missing is undefined (NaN), not an error.

    Raises:
        UsageError: no such folder.
    """

    argument: ClassVar[str] = "folder"
    fixed = True

    def __init__(self, folder: str, allow_missing: bool = False) -> None:
        self.folder, self.allow_missing = Path(folder).expanduser(), allow_missing
        if not self.folder.is_dir():
            raise UsageError(f"maps:{folder}: no such folder")
        self._own: dict[str, Callable[[], Frame]] = {}
        self._files: dict[str, list[Path]] = defaultdict(list)
        self._classes: Sequence[str] = ()
        self._images: Mapping[str, Sequence[str]] = {}
        for where, _, names in os.walk(self.folder):
            for name in sorted(names):
                path = Path(where, name)
                if path.suffix.lower() in SUFFIXES:
                    self._files[composed(path.relative_to(self.folder).with_suffix("").as_posix())].append(path)
        if not self._files:
            raise UsageError(f"maps:{folder} holds no {', '.join(SUFFIXES)}")

    def prepare(self, splits: Splits) -> None:
        """Look for the map of every test image and class with a region.

        Raises:
            DataError: some are missing; says how many, and the first.
        """
        for split in (splits.train, splits.val, splits.test):
            self._own |= {name: partial(split.own_frame, row) for row, name in enumerate(split.ids)}
        test = splits.test
        self._classes = test.classes
        self._images = self._find_images(self._own)
        pairs = [(test.ids[row], test.classes[target]) for row in range(len(test)) for target in test.regions(row)]
        missing, used = [], dict[Path, tuple[str, str]]()
        for pair in pairs:
            path = self.find(*pair)
            if path is None:
                missing.append(pair)
            elif (other := used.setdefault(path, pair)) != pair:
                raise DataError(
                    f"maps:{self.folder}: {path} may be the map of {', '.join(other)} or of {', '.join(pair)}: name it "
                    "CLASS/IMAGE"
                )
        if missing and not self.allow_missing:
            first = ", ".join(f"{image}_{name}" for image, name in missing[:3])
            raise DataError(
                f"maps:{self.folder}: {len(missing)} of {len(pairs)} maps are missing, first {first} "
                f"({' or '.join(SUFFIXES)}): add them, or take allow_missing = true"
            )

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        """Return the maps; all NaN where one is missing.

        Raises:
            DataError: a file is damaged or holds no map; or one is missing and `allow_missing` is off.
        """
        maps = [upsample(one[None], prediction.frame)[0] for one in self.native(classifier, prediction, targets)]
        return torch.stack(maps).to(prediction.images.device)

    def native(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Sequence[Tensor]:
        """Return the maps at the size that they have in their files, which are read when a map is asked for."""
        names = [classifier.classes[target] for target in targets.tolist()]
        pairs = list(zip(prediction.ids, names, strict=True))
        return _Read([partial(self._map, image, name, prediction.frame) for image, name in pairs])

    def find(self, image: str, name: str) -> Path | None:
        """Return the file of an image and class, None if there is none.

        Raises:
            DataError: there are two, or it may be that of another image.
        """
        found = []
        for depth, known in sorted(image_names(image)):
            images = self._images.get(known, [] if depth else [image])
            paths = [path for key in self._keys(known, name) for path in self._files.get(key, ())]
            if image in images:
                found += paths
            if image in images and paths and len(images) > 1:
                raise DataError(
                    f"maps:{self.folder}: {paths[0]} may be a map of {images[0]} or {images[1]}: name it by "
                    "the image's whole path"
                )
        if len(found) > 1:
            raise DataError(f"maps:{self.folder}: {found[0]} and {found[1]} are both the map of {image}, {name}")
        return found[0] if found else None

    def _keys(self, image: str, name: str) -> Iterator[str]:
        """Yield the files' names, without suffix, of an image and class that have these names."""
        for label in self._labels(name):
            yield f"{image}_{label}"
            yield f"{image}_{label}_map"
            yield f"{label}/{image}"

    def _labels(self, name: str) -> Iterable[str]:
        """Return what a class may be called in the files."""
        names = [composed(each) for each in (name, other_name(name, self._classes)) if each]
        return dict.fromkeys(label for each in names for label in (each, each.replace(" ", "_")))

    def _find_images(self, images: Iterable[str]) -> Mapping[str, Sequence[str]]:
        """Return the images that each file may be a map of, by what is left of its name without the class."""
        labels = [label for name in self._classes for label in self._labels(name)]
        ends = [end for label in labels for end in (f"_{label}", f"_{label}_map")]
        names = [file.removesuffix(end) for file in self._files for end in ends if file.endswith(end)]
        names += [file[len(label) + 1 :] for file in self._files for label in labels if file.startswith(f"{label}/")]
        return owners(names, images)

    def _map(self, image: str, name: str, frame: Frame) -> Tensor:
        path = self.find(image, name)
        if path is not None:
            found = torch.from_numpy(read_map(path))
            self._check_proportions(path, Frame(*found.shape), image, frame)
            return found
        if self.allow_missing:
            return torch.full((frame.height, frame.width), torch.nan)
        raise DataError(f"maps:{self.folder}: no map of {image}, {name}")

    def _check_proportions(self, path: Path, found: Frame, image: str, frame: Frame) -> None:
        """Refuse a map that can be neither of the image nor of the input made of it, such as a transposed one."""
        own = self._own[image]() if image in self._own else frame
        if not (_alike(found, own) or _alike(found, frame)):
            raise DataError(
                f"{path} is a map of {found} (height x width) for image {image} of {own}: other proportions, so that "
                f"its places are not the image's (transposed or cropped?); give it in the image's, or those of {frame}"
            )


class _Read(Sequence[Tensor]):
    """Maps that are read when they are asked for: those of a batch of radiographs need not fit into memory."""

    def __init__(self, read: Sequence[Callable[[], Tensor]]) -> None:
        self._read = read

    def __len__(self) -> int:
        return len(self._read)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> _Read: ...

    def __getitem__(self, index: int | slice) -> Tensor | _Read:
        return _Read(self._read[index]) if isinstance(index, slice) else self._read[index]()


def _alike(found: Frame, frame: Frame) -> bool:
    """Tell whether two frames have the same proportions, to within a pixel of the smaller one."""
    smaller, larger = sorted((found, frame), key=lambda known: known.height * known.width)
    return (
        abs(smaller.height - larger.height * smaller.width / larger.width) <= 1
        or abs(smaller.width - larger.width * smaller.height / larger.height) <= 1
    )


def read_map(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read a map, (H, W) float32; see `Maps` for the formats.

    Raises:
        DataError: the file is damaged, holds no map, or one of more pixels than `xaibench.io.limits` allows.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return _read_png(path)
    found: Any = _read_npy(path) if suffix == ".npy" else read_pickle(path)
    if isinstance(found, dict):
        if "map" not in found:
            raise DataError(f"{path}: a dictionary without 'map', only {', '.join(map(str, found))[:80]}")
        found = found["map"]
    if isinstance(found, Tensor) and found.is_floating_point():
        _check_shape(path, found.shape)
        found = found.detach().float().numpy()
    elif isinstance(found, Tensor) and not found.is_complex() and not found.is_quantized:
        found = found.detach().numpy()
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        raise DataError(f"{path} holds no numbers")
    _check_shape(path, found.shape)
    found = found.reshape(found.shape[-2:])
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        return np.ascontiguousarray(found, dtype=np.float32)


def _check_shape(path: Path, shape: Sequence[int]) -> None:
    """Refuse what is no (H, W), apart from leading axes of length 1, or has more pixels than an image may have."""
    if len(shape) < 2 or any(side != 1 for side in shape[:-2]) or 0 in shape:
        raise DataError(f"{path} has shape {tuple(shape)}; a map is (H, W)")
    try:
        check_pixels(shape[-2:])
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _read_npy(path: Path) -> Any:
    """Read an array; its header is judged before a byte of it is."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:  # the third is for names of fields
                raise ValueError(f"a header of version {version}")
            shape, _, dtype = _HEADERS[version](file)
            if dtype.kind not in "fiub":
                raise ValueError(f"it holds {dtype}")
            _check_shape(path, shape)
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # a damaged header raises anything, tokenize.TokenError too
        raise DataError(f"{path} is no array of numbers: {first_line(error)}") from error


_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_png(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    try:
        with open_image(path) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except UNREADABLE as error:
        raise DataError(f"{path} is no image: {first_line(error)}") from error
    if mode not in ("L", "1") and not mode.startswith("I"):
        raise DataError(f"{path} is in colours ({mode}), which have no order: save the map as 8- or 16-bit grey")
    top = {"L": 255, "1": 1}.get(mode, 65535)
    return values.astype(np.float32) / np.float32(top)
