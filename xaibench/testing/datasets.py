"""The contracts of a dataset and of a benchmark, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.datasets.base import Split, Splits
from xaibench.errors import XaibenchError
from xaibench.findings import Finding
from xaibench.testing.checking import GivenUpError, Report, clear
from xaibench.testing.small import SIZE
from xaibench.types import Frame, Sample

LOOKED_AT = 4  # images of each split


def check_dataset(
    name: str,
    *,
    classes: Sequence[str],
    input_size: int = SIZE,
    data_root: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Put a dataset through the contract of `xaibench.datasets.base`.

    Args:
        name: its registered name.
        classes, input_size, data_root, options: to make it with; a small one will do.

    Returns:
        What is not as it should be; empty for a dataset that conforms.
    """
    from xaibench.plugins import build

    report = Report(f"dataset {name}")
    common: dict[str, Any] = {"input_size": input_size, "data_root": data_root}
    wanted = {**common, "classes": tuple(classes), "options": dict(options or {})}
    remedy = "Take classes, input_size, data_root and options as xaibench.datasets.base.DatasetFactory does."
    try:
        splits = report.call("making it", lambda: build("datasets", name, **wanted), remedy)
        if not report.expect(
            isinstance(splits, Splits), "type", f"made a {type(splits).__name__}", "Return xaibench's Splits."
        ):
            raise GivenUpError
        again = report.call("making it again", lambda: build("datasets", name, **wanted), remedy)
        for part in ("train", "val", "test"):
            _check_split(report, part, getattr(splits, part), getattr(again, part), tuple(classes), input_size)
        _check_patients(report, splits)
    except GivenUpError:
        return report.findings
    for what, changed in (
        ("an unknown option", {"options": {**wanted["options"], "no_such_option": 1}}),
        ("a class that it does not have", {"classes": (*classes[:-1], "no such class")}),
    ):
        fault: str | None = "is taken without an error"
        try:
            build("datasets", name, **{**wanted, **changed})
        except Exception as error:
            fault = clear(error) and f"raises {clear(error)}"
        if fault:
            report.add("clear errors", f"{what} {fault}", "Raise UsageError with one line: what, and what there is.")
    return report.findings


def _check_split(report: Report, part: str, split: Split, again: Split, classes: tuple[str, ...], size: int) -> None:
    def expect(holds: object, check: str, what: str, remedy: str) -> bool:
        return report.expect(bool(holds), check, f"{part}: {what}", remedy)

    if not expect(isinstance(split, Split), "type", f"is a {type(split).__name__}, no Split", "Subclass Split."):
        raise GivenUpError
    count, labels = len(split), np.asarray(split.labels)
    expect(split.classes == classes, "classes", f"has classes {split.classes}", "Keep those asked for, in their order.")
    expect(split.frame == Frame.square(size), "frame", f"has frame {split.frame}", f"Give images of {size} px.")
    expect(len(split.ids) == len(set(split.ids)), "ids", "image ids are not unique", "Name each image once.")
    expect(len(split.patients) == count, "patients", f"{len(split.patients)} patients of {count} images", "One each.")
    expect(
        labels.shape == (count, len(classes)) and labels.dtype == np.float32,
        "labels",
        f"labels are {labels.dtype} {labels.shape}",
        f"Make them float32 ({count}, {len(classes)}).",
    )
    expect(np.isin(labels, (0, 1)).all(), "labels", "labels are not 0 or 1", "1 where the class is present.")
    expect(split.fingerprint, "fingerprint", "has no fingerprint", "Hash all that decides the samples.")
    expect(
        split.fingerprint == again.fingerprint and list(split.ids) == list(again.ids),
        "determinism",
        "made again it is another split",
        "Seed every draw from the options.",
    )
    chosen = sorted({int(row) for row in np.linspace(0, count - 1, LOOKED_AT)}) if count else []
    for index in chosen:
        sample = report.call(f"{part}[{index}]", partial(split.__getitem__, index), "Raise DataError naming the file.")
        if not expect(isinstance(sample, Sample), "type", f"[{index}] is no Sample", "Return xaibench.types.Sample."):
            raise GivenUpError
        _check_sample(expect, split, index, sample)
        expect(
            np.array_equal(again[index].image, sample.image),
            "determinism",
            f"image {sample.id} is another the next time",
            "Seed every draw from the image's id.",
        )


def _check_sample(expect: Any, split: Split, index: int, sample: Sample) -> None:
    image, frame = np.asarray(sample.image), split.frame
    expect(
        image.dtype == np.float32 and image.ndim == 3 and image.shape[0] in (1, 3),
        "image",
        f"image {sample.id} is {image.dtype} {image.shape}",
        "Make it float32 (1 or 3, H, W).",
    )
    expect(image.shape[-2:] == (frame.height, frame.width), "frame", f"image {sample.id} is not {frame}", "Resize it.")
    expect(
        np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1,
        "image",
        f"image {sample.id} runs from {image.min():.3g} to {image.max():.3g}, not in [0, 1]",
        "Divide by 255 (or 65,535); leave normalising to the classifier.",
    )
    expect(sample.id == split.ids[index], "ids", f"[{index}] is {sample.id}, not {split.ids[index]}", "Keep the order.")
    expect(sample.patient == split.patients[index], "patients", f"{sample.id} has another patient", "Keep the order.")
    expect(
        np.array_equal(sample.labels, split.labels[index]), "labels", f"{sample.id} has other labels", "Keep the order."
    )
    known = split.regions(index)
    expect(
        {k: r.boxes.tolist() for k, r in known.items()} == {k: r.boxes.tolist() for k, r in sample.regions.items()},
        "regions",
        f"regions({index}) are not those of {sample.id}",
        "Return the same from both.",
    )
    for target, region in known.items():
        expect(
            0 <= target < len(split.classes) and region.frame == frame,
            "regions",
            f"{sample.id}: region of class {target} in a frame of {region.frame}",
            "Use class indices and region.to(frame).",
        )
        inside = (region.boxes >= 0).all() and (region.boxes <= [frame.width, frame.height] * 2).all()
        expect(inside, "regions", f"{sample.id}: a box leaves the image", "Clip boxes to the frame.")
        expect(split.labels[index, target] == 1, "regions", f"{sample.id}: region of an absent class", "Set its label.")


def _check_patients(report: Report, splits: Splits) -> None:
    sets = {name: set(getattr(splits, name).patients) for name in ("train", "val", "test")}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sets[one] & sets[other]
        report.expect(
            not shared or bool(splits.notes),
            "patients",
            f"{len(shared)} patients are in {one} and in {other}",
            "Split by patient, or say so in Splits.notes.",
        )


def check_benchmark(name: str | Path) -> list[Finding]:
    """Check that a benchmark can be read, and that every plugin it names is there and takes its options."""
    from xaibench import registry
    from xaibench.metrics.bound import load_metrics

    report = Report(f"benchmark {name}")
    try:
        benchmark: Benchmark = report.call(
            "reading it", lambda: load_benchmark(name), "Mend the key that the message names."
        )
        report.call("loading its metrics", lambda: load_metrics(benchmark), "Name registered metrics and parameters.")
    except GivenUpError:
        return report.findings
    wanted = [("datasets", benchmark.dataset.name), *(("explainers", b) for b in benchmark.localization.baselines)]
    wanted += [("classifiers", key) for key in benchmark.classifiers if key != "default"]
    for kind, plugin in wanted:
        try:
            registry.get(kind, plugin)
        except XaibenchError as error:
            report.add("plugins", str(error), "Add its package to the dependencies, or mend the name.")
    report.expect(
        bool(benchmark.title), "declaration", "has no title", "Say in one line what it is: title = ...", "warning"
    )
    return report.findings
