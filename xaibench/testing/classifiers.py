"""The contract of a classifier, checked: what `xaibench.classifiers.base.Classifier` says, whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.state import State
from xaibench.errors import UsageError
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
from xaibench.testing.small import CLASSES, SIZE, small_images
from xaibench.types import Prediction

MAKE_REMEDY = "Take classes and input_size, and give every other option a default that needs no network."


@one_thread()
def check_classifier(
    name: str | Callable[..., Classifier],
    *,
    classes: Sequence[str] = CLASSES,
    input_size: int = SIZE,
    options: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Put a classifier through the contract.

    Args:
        name: its registered name ("timm:resnet18" with an argument), or what makes one.
        classes, input_size: to make it with.
        options: further ones. ``weights="random"`` is given to a classifier with that option, so that no network is
            needed.

    Returns:
        What is not as it should be; empty for a classifier that conforms.
    """
    report = Report(f"classifier {name if isinstance(name, str) else getattr(name, '__name__', type(name).__name__)}")
    with report.checks():
        made = _Maker(report, name, classes, input_size, options or {})
        _Contract(report, made).run()
    return report.findings


class _Maker:
    """Makes the same classifier again and again."""

    def __init__(
        self,
        report: Report,
        name: str | Callable[..., Classifier],
        classes: Sequence[str],
        input_size: int,
        options: Mapping[str, Any],
    ) -> None:
        from xaibench import registry

        self.report, self.name, self.classes, self.size = report, name, tuple(classes), input_size
        known: Mapping[str, Any] = {}
        factory = name
        if isinstance(name, str):
            factory = report.call("importing it", lambda: registry.get("classifiers", name).load(), "Mend the import.")
        import inspect

        known = inspect.signature(factory).parameters  # type: ignore[arg-type]
        self.seeded = "seed" in known
        self.options = ({"weights": "random"} if "weights" in known else {}) | dict(options)

    def __call__(self, **more: Any) -> Classifier:
        from xaibench.plugins import build

        kwargs = {"classes": self.classes, "input_size": self.size, **self.options, **more}

        def make() -> Any:
            return build("classifiers", self.name, **kwargs) if isinstance(self.name, str) else self.name(**kwargs)

        made = self.report.call("making it", make, MAKE_REMEDY)
        if not self.report.expect(
            isinstance(made, Classifier),
            "type",
            f"the entry point makes a {type(made).__name__}, no Classifier",
            "Point it at a subclass of xaibench.classifiers.base.Classifier.",
        ):
            raise GivenUpError
        return made.eval()  # type: ignore[no-any-return]


class _Contract:
    def __init__(self, report: Report, make: _Maker) -> None:
        self.report, self.make = report, make
        with reseeded(5):
            before = generators()
            self.classifier = make()
            report.expect(
                equal_generators(before, generators()),
                "random",
                "making it draws from a global random generator",
                "Make layers in a block `with seeded(seed):`.",
            )
        self.images = small_images(5, make.size)
        self.ids = [f"image{row}.png" for row in range(5)]
        self.wanted: Prediction

    def run(self) -> None:
        self.shapes()
        self.parts_agree()
        self.batches()
        self.leaves_no_trace()
        self.gradient()
        self.pooled_linear()
        self.again()
        self.body()
        self.refuses()
        self.devices()

    def predict(self, images: Tensor, ids: Sequence[str]) -> Prediction:
        with torch.no_grad():
            return self.report.call(  # type: ignore[no-any-return]
                "predict(images)",
                lambda: self.classifier.predict(images, ids),
                "Take images (B, 3, H, W) in [0, 1] of the input size.",
            )

    def shapes(self) -> None:
        expect, classifier = self.report.expect, self.classifier
        expect(
            classifier.classes == self.make.classes and classifier.input_size == self.make.size,
            "classes",
            f"has classes {classifier.classes} and input_size {classifier.input_size}, not those it was made with",
            "Call super().__init__(classes, input_size).",
        )
        images = self.images.clone()
        self.wanted = seen = self.predict(self.images, self.ids)
        expect(torch.equal(images, self.images), "inputs", "changed the images", "Work on a copy.")
        size = (len(images), len(self.make.classes))
        logits, features = seen.logits, seen.features
        if not expect(
            isinstance(logits, Tensor) and tuple(logits.shape) == size,
            "shape",
            f"logits have shape {tuple(logits.shape)}, not (B, K) = {size}",
            "Return one logit a class from head().",
        ):
            raise GivenUpError
        expect(logits.dtype == torch.float32, "dtype", f"logits are {logits.dtype}, not float32", "Return .float().")
        expect(
            bool(logits.isfinite().all() and features.isfinite().all()),
            "finite",
            "logits or features hold NaN or infinity",
            "Look for a division by zero, or weights that were never set.",
        )
        if not expect(
            features.ndim == 4 and len(features) == len(images),
            "shape",
            f"features have shape {tuple(features.shape)}, not (B, C, h, w)",
            "Return the last layer that still has places; reshape tokens (B, h * w, C) to (B, C, h, w).",
        ):
            raise GivenUpError
        expect(
            bool((logits - logits[:1]).abs().max() > 0),
            "information",
            "logits are the same for every image",
            "Look at the normalisation and at the weights.",
        )
        bounded = bool((logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(len(logits)), atol=1e-4))
        expect(
            not bounded,
            "logits",
            "logits are probabilities that add up to 1",
            "Return logits: the softmax is taken by who needs it.",
        )
        expect(
            set(seen.maps) == set(classifier.own_maps),
            "own maps",
            f"head_with_maps returns {sorted(seen.maps)} and own_maps says {sorted(classifier.own_maps)}",
            "Name them in the class attribute own_maps.",
        )
        frame = (*size, seen.frame.height, seen.frame.width)
        for name, maps in seen.maps.items():
            expect(
                tuple(maps.shape) == frame,
                "own maps",
                f"map {name!r} has shape {tuple(maps.shape)}, not (B, K, H, W) = {frame}",
                "Bring it to the frame of the images.",
            )

    def parts_agree(self) -> None:
        with torch.no_grad():
            features = self.classifier.features(self.images)
            kept = features.clone()
            logits = self.classifier.head(features, self.images)
            whole = self.classifier(self.images)
            network = self.classifier.own_forward(self.images)
        for what, found in (
            ("head(features(images), images)", logits),
            ("forward(images)", whole),
            ("network(images)", network),
        ):
            self.report.expect(
                same(found, self.wanted.logits),
                "parts",
                f"{what} is not what predict(images) gives, {furthest(found, self.wanted.logits)}",
                "Put everything before the explained layer in features() and everything after it in head().",
            )
        self.report.expect(
            torch.equal(features, kept),
            "in-place",
            "head() changes the features that it is given",
            "Set inplace=False on the activation that comes first in head().",
        )

    def batches(self) -> None:
        parts = [self.predict(self.images[row : row + 1], self.ids[row : row + 1]) for row in range(5)]
        alone = torch.cat([part.logits for part in parts])
        backwards = self.predict(self.images.flip(0), self.ids[::-1]).logits.flip(0)
        for what, found in (("the batch size", alone), ("the order of images", backwards)):
            self.report.expect(
                same(found, self.wanted.logits, 1e-3),
                "batches",
                f"{what} changes the logits, {furthest(found, self.wanted.logits)}",
                "Nothing in eval mode may look at the other images: is a batch norm still in training mode?",
            )

    def leaves_no_trace(self) -> None:
        state, sizes = State.of(self.classifier), []
        with reseeded(6), newborn() as living:
            before = generators()
            for _ in range(3):
                found = self.predict(self.images, self.ids).logits
                self.report.expect(
                    same(found, self.wanted.logits),
                    "random",
                    "the same images give other logits the next time",
                    "In eval mode nothing is drawn: is a dropout always on?",
                )
                del found
                sizes.append(living())
            self.report.expect(
                equal_generators(before, generators()),
                "random",
                "predict draws from a global random generator",
                "In eval mode nothing is drawn.",
            )
        self.report.expect(
            not sizes[0] < sizes[1] < sizes[2],
            "memory",
            f"each prediction keeps {(sizes[2] - sizes[0]) // 2:,} bytes of tensors",
            "Keep no features or graphs on self.",
        )
        now = State.of(self.classifier)
        for where in state.hooks_left(now)[:3]:
            self.report.add("hooks", f"predict left a hook on {where or 'itself'}", "Remove it: handle.remove().")
        for change in state.changes(now)[:3]:
            self.report.add("state", f"after predict, {change}", "Leave modes and flags as they were.")

    def gradient(self) -> None:
        images = self.images[:1].clone().requires_grad_(True)
        with torch.enable_grad():
            try:
                (found,) = torch.autograd.grad(self.classifier(images)[0, 0], images, allow_unused=True)
            except RuntimeError:
                found = None
        self.report.expect(
            found is not None and bool(found.isfinite().all() and found.abs().max() > 0),
            "gradient",
            "the logit has no gradient of the image: explainers that need one do not apply",
            "Take no_grad and detach out of features() and head(), where the network allows.",
            "warning",
        )

    def pooled_linear(self) -> None:
        if not self.classifier.head_is_pooled_linear:
            return
        weights = self.report.call("class_weights()", self.classifier.class_weights, "Return (K, C).").detach()
        closed = self.wanted.features.mean(dim=(-2, -1)) @ weights.T
        bias = self.wanted.logits - closed
        self.report.expect(
            bool((bias - bias[:1]).abs().max() <= 1e-3 * self.wanted.logits.abs().max() + 1e-5),
            "pooled linear",
            "head_is_pooled_linear, yet logits are not the mean features times class_weights() plus a constant",
            "Set head_is_pooled_linear = False.",
        )

    def again(self) -> None:
        """Made again with the same seed it is the same; with another's trained state it says the same."""
        if self.make.seeded:
            twin = self.make(seed=0)
            other = self.make(seed=0)
            self.report.expect(
                all(torch.equal(a, b) for a, b in zip(twin.state_dict().values(), other.state_dict().values())),  # noqa: B905
                "seed",
                "two made with one seed differ",
                "Make layers in a block `with seeded(seed):`.",
            )
        other = self.make(seed=1) if self.make.seeded else self.make()
        with torch.no_grad():
            for tensor in other.trained_state().values():
                if tensor.is_floating_point():
                    tensor.mul_(1.5)
        self.report.call(
            "load_trained_state(trained_state())",
            lambda: other.load_trained_state({k: v.clone() for k, v in self.classifier.trained_state().items()}),
            "Give the two one set of names.",
        )
        with torch.no_grad():
            found = other.predict(self.images, self.ids).logits
        self.report.expect(
            same(found, self.wanted.logits),
            "checkpoint",
            f"with the trained state of another it predicts otherwise, {furthest(found, self.wanted.logits)}",
            "Let trained_state() hold every tensor that training changes.",
        )

    def body(self) -> None:
        """A body that is declared frozen must give the same features while the head trains."""
        if not self.classifier.body_is_frozen:
            return
        self.classifier.train()
        with torch.no_grad():
            found = self.classifier.features(self.images)
        self.classifier.eval()
        self.report.expect(
            same(found, self.wanted.features),
            "frozen body",
            "body_is_frozen, yet features differ in training mode",
            "Override train() so that the body stays in eval mode.",
        )

    def refuses(self) -> None:
        for options, what in (({"classes": ()}, "no class"), ({"input_size": 0}, "input_size = 0")):
            try:
                from xaibench.plugins import build

                kwargs = {"classes": self.make.classes, "input_size": self.make.size, **self.make.options, **options}
                if isinstance(self.make.name, str):
                    build("classifiers", self.make.name, **kwargs)
                else:
                    self.make.name(**kwargs)
                fault: str | None = "is taken without an error"
            except Exception as error:
                wrong = clear(error)
                fault = None if wrong is None and isinstance(error, UsageError) else f"gives {wrong or type(error)}"
            if fault:
                self.report.add(
                    "clear errors",
                    f"{what} {fault}",
                    "Call super().__init__(classes, input_size) first: it refuses in one line.",
                    "warning",
                )

    def devices(self) -> None:
        if not torch.cuda.is_available():
            return
        self.classifier.to("cuda")
        found = self.predict(self.images.cuda(), self.ids).logits
        self.report.expect(
            same(found, self.wanted.logits, 1e-2),
            "device",
            f"the GPU's logits are others, {furthest(found, self.wanted.logits)}",
            "Register constants as buffers.",
        )
        self.classifier.to("cpu")
