"""The benchmark's ``[dataset.options]`` of chestxray8, validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from xaibench.errors import UsageError, did_you_mean

_CHOICES = {
    "task": ("multiclass", "multilabel"),
    "split": ("paper", "official_split", "patient_disjoint"),
    "single_label": ("only", "within_classes"),
    "balance": ("smallest", "none"),
    "test_boxes": ("all", "single"),
    "test_labels": ("boxes", "all"),
}
_PAPER = {"balance": "smallest", "test_boxes": "single", "test_labels": "boxes", "test_no_finding": 100}


@dataclass(frozen=True)
class Options:
    """What decides which images are in which split.

    Attributes:
        task: "multiclass" (images of one class each) or "multilabel" (all images that have a label, also those
            with none of the classes). Default: the benchmark's.
        split: "paper" (test: boxed images and some No Finding; train: the rest, cut to the smallest class; patients may
            be on both sides), "official_split" (the release's two lists) or "patient_disjoint" (test: all boxed images
            of the classes and a share of the patients).
        single_label: multiclass only. "only": the class is the image's only label; "within_classes": exactly one of
            the benchmark's classes, whatever else is found. A boxed image is in the test in either case.
        balance: multiclass only. "smallest" cuts every class of the training side to the smallest, before validation
            is drawn from it. Default "smallest" for the paper, else "none".
        max_per_class: at most so many training-side images of a class.
        test_fraction: patient_disjoint only: share of the patients in the test, patients with boxes included.
        val_fraction: share of the training side's patients that validate; 0 for an empty validation split.
        test_no_finding: at most so many No Finding images in the test. Default 100 for the paper, else no limit.
        test_boxes: "all", or "single": images with boxes of several findings are left out of all splits. Default
            "single" for the paper, else "all".
        test_labels: a boxed image's labels: "boxes" (what is boxed) or "all" (what Data_Entry says). Default "boxes"
            for the paper, else "all".
        split_seed: draws test and validation.
        subset_seed: draws what `balance` and `max_per_class` keep; 0, 1, 2 are the paper's three subsets.
        allow_missing: go on with the images found; otherwise a missing one is an error.
        validate_boxes: ignore boxes whose finding is not among the image's labels (they are counted either way).
        images: the folder of the images in the data root; "auto" for the release's own layouts.
    """

    task: str = "multiclass"
    split: str = "patient_disjoint"
    single_label: str = "only"
    balance: str = "none"
    max_per_class: int | None = None
    test_fraction: float = 0.25
    val_fraction: float = 0.1
    test_no_finding: int | None = None
    test_boxes: str = "all"
    test_labels: str = "all"
    split_seed: int = 0
    subset_seed: int = 0
    allow_missing: bool = False
    validate_boxes: bool = True
    images: str = "auto"


def parse_options(given: Mapping[str, Any]) -> Options:
    """Validate options and fill in the defaults of their split.

    Raises:
        UsageError: an unknown option, a value out of range, or an option that the chosen task or split does not have.

    >>> parse_options({"split": "paper"}).test_no_finding
    100
    >>> parse_options({"splt": "paper"})
    Traceback (most recent call last):
    ...
    xaibench.errors.UsageError: chestxray8 has no option 'splt'. Did you mean 'split'?
    """
    known = [field.name for field in fields(Options)]
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"chestxray8 has no option {name!r}. {did_you_mean(name, known)}")
        _check(name, value)
    defaults: dict[str, Any] = dict(_PAPER) if given.get("split") == "paper" else {}
    if given.get("task") == "multilabel":
        for name in ("single_label", "balance"):
            if given.get(name, "none") != "none":
                raise UsageError(f'chestxray8 option {name} needs task = "multiclass": leave it out')
        defaults.pop("balance", None)
    options = Options(**(defaults | dict(given)))
    if "test_fraction" in given and options.split != "patient_disjoint":
        raise UsageError('chestxray8 option test_fraction needs split = "patient_disjoint": leave it out')
    return options


def _check(name: str, value: object) -> None:
    wanted = ""
    if name in _CHOICES:
        if value in _CHOICES[name]:
            return
        wanted = " or ".join(f'"{choice}"' for choice in _CHOICES[name])
        if isinstance(value, str):
            wanted += f". {did_you_mean(value, _CHOICES[name])}"
    elif name in {"allow_missing", "validate_boxes"}:
        wanted = "" if isinstance(value, bool) else "true or false"
    elif name in {"test_fraction", "val_fraction"}:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
        lowest_allowed = name == "val_fraction" and number == 0
        wanted = "" if 0 < number < 1 or lowest_allowed else "a share between 0 and 1"
    elif name == "images":
        wanted = "" if isinstance(value, str) else "the name of a folder in the data root"
    else:
        lowest = 1 if name == "max_per_class" else 0
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
        wanted = "" if whole else f"a whole number from {lowest}"
    if wanted:
        raise UsageError(f"chestxray8 option {name} = {value!r}: give {wanted}")
