"""The contract of an explainer, checked: what `xaibench.explainers.base.Explainer` says, whatever the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.state import State
from xaibench.datasets.base import Splits
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer
from xaibench.findings import Finding
from xaibench.testing.checking import (
    GivenUpError,
    Report,
    clear,
    equal_generators,
    furthest,
    generators,
    newborn,
    one_thread,
    reseeded,
    same,
)
from xaibench.testing.small import small_classifiers, small_prediction, small_splits
from xaibench.types import Prediction

TARGETS = (0, 1, 2, 3, 1, 1, 0)


@one_thread()
def check_explainer(
    name: str | Explainer,
    classifier: Classifier | Iterable[Classifier] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    splits: Splits | None = None,
) -> list[Finding]:
    """Put an explainer through the contract.

    Args:
        name: its registered name, or an explainer made already (prepared by this function).
        classifier: of at least four classes, in eval mode; or several, of which the first that the explainer applies
            to is taken. By default small ones of ours: a CNN, GCM, a Vision Transformer.
        options: of the explainer, such as fewer samples than anyone would take.
        splits: what it may learn from; by default a few images of noise with boxes.

    Returns:
        What is not as it should be; empty for an explainer that conforms.
    """
    report = Report(f"explainer {name if isinstance(name, str) else type(name).__name__}")
    with report.checks():
        explainer = _make(report, name, options or {})
        given = [classifier] if isinstance(classifier, Classifier) else classifier
        found = _applicable(report, explainer, small_classifiers() if given is None else given)
        known = splits or small_splits(found.classes, found.input_size)
        report.call("prepare(splits)", lambda: explainer.prepare(known), "Raise NotApplicableError where data lacks.")
        state, values = State.of(found), {name: tensor.clone() for name, tensor in found.state_dict().items()}
        try:
            _Contract(report, explainer, found, state, values).run()
        finally:
            state.restore(found)
            found.load_state_dict(values)
    return report.findings


def _make(report: Report, name: str | Explainer, options: Mapping[str, Any]) -> Explainer:
    from xaibench.plugins import build

    if not isinstance(name, str):
        return name
    made = report.call(
        "making it", lambda: build("explainers", name, **options), "Give every option of its __init__ a default."
    )
    if not report.expect(
        isinstance(made, Explainer),
        "type",
        f"the entry point makes a {type(made).__name__}, no Explainer",
        "Point it at a subclass of xaibench.explainers.base.Explainer.",
    ):
        raise GivenUpError
    return made  # type: ignore[no-any-return]


def _applicable(report: Report, explainer: Explainer, classifiers: Iterable[Classifier]) -> Classifier:
    """Return the first classifier that the explainer applies to."""
    reasons = []
    for classifier in classifiers:
        try:
            explainer.check(classifier)
        except Exception as error:
            if fault := clear(error):
                report.add(
                    "clear errors",
                    f"check(classifier) raised {fault}",
                    "Raise NotApplicableError with one line: why, and what to use instead.",
                )
            if not isinstance(error, NotApplicableError):
                raise GivenUpError from error
            reasons.append(f"{type(classifier).__name__} ({error})")
        else:
            return classifier
    report.add(
        "applies", f"applies to none of {'; '.join(reasons)}", "Give check_explainer a classifier that it applies to."
    )
    raise GivenUpError


class _Contract:
    def __init__(
        self, report: Report, explainer: Explainer, classifier: Classifier, state: State, values: dict[str, Tensor]
    ) -> None:
        self.report, self.explainer, self.classifier = report, explainer, classifier
        self.state, self.values = state, values
        self.prediction = small_prediction(classifier, len(TARGETS))
        device = classifier.device
        self.targets = torch.tensor(TARGETS, device=device).clamp(max=len(classifier.classes) - 1)
        self.wanted: Tensor

    def run(self) -> None:
        self.shape_and_state()
        self.batches()
        self.order()
        self.gradients_off()
        self.generators()
        self.graph()
        self.memory()
        self.scale()
        self.classes()
        self.devices()

    def explain(
        self, prediction: Prediction, targets: Tensor, remedy: str = "Call it in a test to see the traceback."
    ) -> Tensor:
        return self.report.call(  # type: ignore[no-any-return]
            "explain", lambda: self.explainer.explain(self.classifier, prediction, targets), remedy
        )

    def shape_and_state(self) -> None:
        """The first call: what it returns, and what it leaves behind."""
        expect, classifier, prediction = self.report.expect, self.classifier, self.prediction
        state, values = self.state, self.values
        images, features = prediction.images.clone(), prediction.features.clone()
        maps = self.explain(prediction, self.targets)
        size = (len(prediction), prediction.frame.height, prediction.frame.width)
        if not isinstance(maps, Tensor) or tuple(maps.shape) != size:
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            self.report.add(
                "shape",
                f"returned {shape}, not (B, H, W) = {size}",
                "Return one map an image in the input's frame: upsample(maps, prediction.frame).",
            )
            raise GivenUpError
        expect(maps.dtype == torch.float32, "dtype", f"maps are {maps.dtype}, not float32", "Return maps.float().")
        expect(not maps.requires_grad, "graph", "maps carry a graph", "Return maps.detach().")
        expect(
            maps.device == prediction.images.device,
            "device",
            f"maps are on {maps.device}, images on {prediction.images.device}",
            "Make tensors on prediction.images.device.",
        )
        expected_nan = maps.isnan().flatten(1).all(1) if self.explainer.is_baseline else torch.zeros(len(maps)).bool()
        expect(
            bool((maps.isfinite().flatten(1).all(1) | expected_nan.to(maps.device)).all()),
            "finite",
            "maps hold NaN or infinity",
            "Guard divisions and roots: add an epsilon, or torch.where on zero.",
        )
        expect(
            float(maps.detach().nan_to_num().std()) > 0,
            "information",
            "every map is the same constant",
            "Look for a gradient that is cut (no_grad, detach) or a ReLU over negative values only.",
        )
        now = State.of(classifier)
        for where in state.hooks_left(now)[:3]:
            self.report.add(
                "hooks",
                f"left a hook on {where or 'the classifier'}",
                "Remove it in a finally block: handle.remove().",
            )
        for change in state.changes(now)[:3]:
            self.report.add("state", f"after explaining, {change}", "Put it back in a finally block.")
        after = classifier.state_dict()
        moved = [name for name, tensor in values.items() if not torch.equal(after[name], tensor)]
        expect(not moved, "state", f"changed the weights {', '.join(moved[:3])}", "Work on a copy.")
        expect(
            all(parameter.grad is None for parameter in classifier.parameters()),
            "state",
            "left gradients on parameters",
            "Use torch.autograd.grad, or xaibench.explainers.base.frozen(classifier).",
        )
        expect(
            torch.equal(prediction.images, images) and torch.equal(prediction.features, features),
            "inputs",
            "changed the prediction's images or features",
            "Clone before writing in place.",
        )
        expect(
            not prediction.images.requires_grad and not prediction.features.requires_grad,
            "inputs",
            "left requires_grad on the prediction's tensors",
            "Take tensor.detach().clone().requires_grad_().",
        )
        self.wanted = maps.detach()

    def batches(self) -> None:
        for size in (1, 3):
            parts = [
                self.explain(self.prediction.select(rows.tolist()), self.targets[rows])
                for rows in torch.split(torch.arange(len(self.prediction)), size)
            ]
            self.compare("batches", torch.cat(parts), self.wanted, f"batches of {size} change the maps")

    def order(self) -> None:
        """Backwards, with one image twice, for two classes."""
        order = [6, 5, 5, 3, 1, 0]
        chosen = self.targets[order].clone()
        chosen[2] = len(self.classifier.classes) - 1
        found = self.explain(self.prediction.select(order), chosen)
        others = [0, 1, 3, 4, 5]
        self.compare("order", found[others], self.wanted[[order[i] for i in others]], "the order changes the maps")
        alone = self.explain(self.prediction.select([5]), chosen[2:3])
        self.compare("order", found[[2]], alone, "an image that comes twice, for two classes, changes the maps")

    def compare(self, check: str, found: Tensor, wanted: Tensor, what: str) -> None:
        self.report.expect(
            same(found, wanted),
            check,
            f"{what}, {furthest(found, wanted)}",
            "Let each map depend on its own image and target only; draw from seed_of(image id).",
        )

    def gradients_off(self) -> None:
        """The harness explains under `no_grad`, from a prediction: one forward pass serves unless a method says so."""
        runs = []
        features = self.classifier.features

        def counted(images: Tensor) -> Tensor:
            runs.append(1)
            return features(images)

        self.classifier.__dict__["features"] = counted
        try:
            with torch.no_grad():
                found = self.explain(self.prediction, self.targets, "Use torch.enable_grad() where gradients flow.")
        finally:
            del self.classifier.__dict__["features"]
        self.compare("gradients off", found, self.wanted, "torch.no_grad() changes the maps")
        self.report.expect(
            bool(runs) <= self.explainer.runs_body,
            "runs_body",
            "runs the whole network again and does not say so",
            "Set runs_body = True, or work on prediction.features through classifier.head.",
        )

    def generators(self) -> None:
        with reseeded(11):
            before = generators()
            found = self.explain(self.prediction, self.targets)
            self.report.expect(
                equal_generators(before, generators()),
                "random",
                "draws from a global random generator",
                "Draw from torch.Generator().manual_seed(seed_of(image id, ...)).",
            )
        self.compare("random", found, self.wanted, "the global generators' seed changes the maps")

    def graph(self) -> None:
        """A prediction made without `no_grad` gives the same maps, without its graph."""
        rows = [0, 1]
        ids = self.prediction.ids[:2]
        tracked = self.classifier.predict(self.prediction.images[rows], ids)
        maps = self.explain(tracked, self.targets[rows], "Take prediction.features.detach().")
        self.report.expect(
            not maps.requires_grad, "graph", "maps of a prediction with a graph carry it", "Return maps.detach()."
        )
        self.compare("graph", maps.detach(), self.wanted[rows], "a prediction with a graph changes the maps")

    def memory(self) -> None:
        """By now all that is kept for good is there: two more calls must leave nothing."""
        part = self.prediction.select([0, 1])
        sizes = []
        with newborn() as living:
            for _ in range(3):
                self.explain(part, self.targets[:2])
                sizes.append(living())
        self.report.expect(
            not sizes[0] < sizes[1] < sizes[2],
            "memory",
            f"each call keeps {(sizes[2] - sizes[0]) // 2:,} bytes of tensors",
            "Keep no maps, graphs or hooks on self.",
        )

    def scale(self) -> None:
        flat = self.wanted.flatten(1)
        normalised = bool(((flat.amin(1) == 0) & (flat.amax(1) == 1)).all())
        self.report.expect(
            self.explainer.is_baseline or not normalised,
            "sign",
            "every map runs from exactly 0 to exactly 1: min-max scaled?",
            "Return the method's own values, signed; display scales them.",
            "warning",
        )

    def classes(self) -> None:
        rows, other = [0, 1, 2], (self.targets[:3] + 1) % len(self.classifier.classes)
        alike = same(self.explain(self.prediction.select(rows), other), self.wanted[rows], 1e-6)
        if self.explainer.is_baseline or float(self.wanted[rows].nan_to_num().std()) == 0:
            return
        self.report.expect(
            not (alike and getattr(self.explainer, "class_specific", True)),
            "class",
            "the map is the same for every class",
            "Use the target; where the method has none by definition, set class_specific = False.",
            "warning",
        )

    def devices(self) -> None:
        if not torch.cuda.is_available() or self.classifier.device.type != "cpu":
            return
        home = self.classifier.device
        try:
            self.classifier.to("cuda")
            there = small_prediction(self.classifier, len(TARGETS))
            maps = self.explain(there, self.targets.cuda(), "Make tensors on prediction.images.device.")
            self.report.expect(
                maps.device.type == "cuda", "device", "maps left the GPU", "Keep maps on the images' device."
            )
            apart = (maps.cpu() - self.wanted).abs().nan_to_num().flatten(1).mean(1)
            scale = self.wanted.abs().nan_to_num().flatten(1).mean(1)
            self.report.expect(
                bool((apart <= 1e-2 * scale + 1e-6).all()),
                "device",
                "the GPU's maps are others than the CPU's",
                "Draw random numbers on the CPU, then move them.",
            )
        finally:
            self.classifier.to(home)
