"""Methods that change how gradients pass through layers, by captum.

They hook layers, so that what is no layer of its own (a function's ReLU, the addition of a shortcut) escapes them
without a word from captum: `check` looks for that and refuses. Maps are signed and summed over channels, as in
`xaibench.explainers.gradient`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import captum.attr
import torch
from captum._utils.common import _register_backward_hook
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from captum.attr._utils import lrp_rules
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, Normalize
from xaibench.datasets.base import Splits
from xaibench.errors import NotApplicableError, first_line
from xaibench.explainers.base import frozen
from xaibench.explainers.cam import GradCAM
from xaibench.explainers.gradient import ROWS, Gradient, drawn, whole_number
from xaibench.explainers.layers import leaves, operations, sample_image, unchanged
from xaibench.explainers.reference import Reference, draw
from xaibench.types import Prediction

RECTIFIERS = (nn.ReLU, nn.ReLU6)
_CUTS = frozenset({"relu", "relu6", "hardtanh", "clamp_min"})
_BENDS = frozenset({"silu", "gelu", "hardswish", "mish", "elu", "leaky_relu", "softplus", "_prelu_kernel", "celu"})


class _Hooked(Gradient):
    """Base of the methods that hook layers."""

    rows = ROWS // 2  # captum keeps layers' inputs and outputs besides

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        with unchanged(classifier), self.hooked(classifier), _quiet():
            return super().explain(classifier, prediction, targets)

    def hooked(self, classifier: Classifier) -> AbstractContextManager[None]:
        """Return what holds while captum's hooks are in place."""
        return _apart(classifier)


class _Rectified(_Hooked):
    """Base of the methods that change the ReLUs."""

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        who, seen = type(classifier).__name__, operations(classifier, sample_image(classifier))
        instead = "use saliency or integrated_gradients"
        if bends := sorted(_BENDS & seen.keys()):
            raise NotApplicableError(
                f"{self.name} is defined for networks of ReLUs and {who} has {', '.join(bends)}: {instead}"
            )
        runners = {kind for name in _CUTS & seen.keys() for kind in seen[name]}
        if not runners:
            raise NotApplicableError(f"{self.name} changes the ReLUs, and {who} has none: {instead}")
        if stray := [kind for kind in runners if kind is None or not issubclass(kind, RECTIFIERS)]:
            where = ", ".join("a function between layers" if kind is None else kind.__name__ for kind in stray)
            raise NotApplicableError(
                f"{self.name} changes layers of nn.ReLU, and {who} computes a ReLU in {where}: make it an nn.ReLU, or "
                f"{instead}"
            )


class GuidedBackprop(_Rectified):
    """Guided backpropagation (Springenberg 2015): only positive gradients pass a ReLU (also a ReLU6)."""

    name = "guided_backprop"

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        return _GuidedBackprop(classifier).attribute(images, target=targets)  # type: ignore[no-any-return]


class Deconvnet(_Rectified):
    """Deconvnet (Zeiler and Fergus 2014), of the class's logit: the gradient itself is rectified at each ReLU.

    Max pooling goes back by its switches, convolutions transposed.
    """

    name = "deconvnet"

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        return _Deconvolution(classifier).attribute(images, target=targets)  # type: ignore[no-any-return]


class GuidedGradCAM(GuidedBackprop):
    """Guided Grad-CAM (Selvaraju 2017): guided backpropagation times Grad-CAM, which comes up bilinearly."""

    name = "guided_gradcam"

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        guided = super().explain(classifier, prediction, targets)
        return guided * GradCAM().explain(classifier, prediction, targets)


class DeepLift(_Hooked):
    """DeepLIFT (Shrikumar 2017), rescale rule: activations' differences from a reference, shared out among inputs.

    Adds up to the logit less the reference's; a classifier whose maps don't (products of features, activations that
    captum has no rule for, a layer used twice) is refused.

    Args:
        reference: see `Reference`.

    Raises:
        UsageError: an option out of its range.
    """

    name = "deeplift"
    completeness = "sum"

    def __init__(self, reference: str = "black") -> None:
        self.reference = Reference(self.name, reference)

    def prepare(self, splits: Splits) -> None:
        self.reference.prepare(splits)

    def baselines(self, images: Tensor) -> Tensor:
        return self.reference(images)[:, None]

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        check_deeplift(classifier, self.name)

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        references = self.reference(images.detach())
        return _DeepLift(classifier).attribute(images, references, target=targets)  # type: ignore[no-any-return]


class DeepLiftShap(_Hooked):
    """DeepLIFT SHAP (Lundberg 2017): the mean of DeepLIFT's maps over training images as references.

    Args:
        background: how many training images, the same for each image; one forward and backward pass of two images for
            each.

    Raises:
        UsageError: an option out of its range.
    """

    name = "deepliftshap"
    completeness = "sum"
    rows = 1

    def __init__(self, background: int = 10) -> None:
        self.count = whole_number(self.name, "background", background)
        self.background: Tensor | None = None

    def prepare(self, splits: Splits) -> None:
        self.background = draw(splits, self.name, self.count)

    def baselines(self, images: Tensor) -> Tensor:
        return drawn(self.background, self.name).to(images).expand(len(images), -1, -1, -1, -1)

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        check_deeplift(classifier, self.name)

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        image, total = images.detach(), torch.zeros_like(images)
        background = drawn(self.background, self.name).to(image.device)
        for references in torch.split(background, ROWS // 2):
            copies = image.repeat(len(references), 1, 1, 1).requires_grad_(True)
            found = _DeepLift(classifier).attribute(copies, references, target=targets.expand(len(references)))
            total += found.detach().sum(dim=0, keepdim=True)
        return total / len(background)


class LRP(_Hooked):
    """Layer-wise relevance propagation (Bach 2015), epsilon rule, for chains of captum's layers (VGG and the like).

    Relevance passes the classifier's own normalisation unchanged; biases keep their share. Shortcuts, products and
    layers that captum has no rule for are refused.
    """

    name = "lrp"

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        who, instead = type(classifier).__name__, "use input_x_gradient or integrated_gradients"
        known = (*_LRP_KNOWN, *_LRP_LINEAR, Normalize)
        foreign = sorted({type(layer).__name__ for layer in leaves(classifier) if type(layer) not in known})
        if foreign:
            raise NotApplicableError(f"lrp has no rule for {who}'s {', '.join(foreign)}: {instead}")
        seen = operations(classifier, sample_image(classifier))
        if stray := sorted(name for name, runners in seen.items() if None in runners):
            raise NotApplicableError(f"lrp has no rule for {', '.join(stray)} between {who}'s layers: {instead}")

    def hooked(self, classifier: Classifier) -> AbstractContextManager[None]:
        return nullcontext()  # its rules reckon with shared tensors

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        for layer in classifier.modules():
            if isinstance(layer, Normalize):
                layer.rule = lrp_rules.IdentityRule()
            elif isinstance(layer, _LRP_LINEAR):
                layer.rule = lrp_rules.EpsilonRule()
        return captum.attr.LRP(classifier).attribute(images, target=targets)  # type: ignore[no-any-return]


_LRP_KNOWN = (
    nn.MaxPool2d,
    nn.Conv2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Linear,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.Dropout,
    nn.Tanh,
)
_LRP_LINEAR = (nn.Identity, nn.Flatten)


class _GuidedBackprop(captum.attr.GuidedBackprop):  # type: ignore[misc]
    def _register_hooks(self, module: nn.Module) -> None:
        _hook_rectifier(self, module)


class _Deconvolution(captum.attr.Deconvolution):  # type: ignore[misc]
    def _register_hooks(self, module: nn.Module) -> None:
        _hook_rectifier(self, module)


def _hook_rectifier(method: Any, module: nn.Module) -> None:
    """Hook ReLU6 as captum hooks ReLU."""
    if isinstance(module, RECTIFIERS):
        method.backward_hooks.extend(_register_backward_hook(module, method._backward_hook, method))


class _DeepLift(captum.attr.DeepLift):  # type: ignore[misc]
    """captum's DeepLIFT with a rule for max pooling that holds where windows overlap.

    captum's lets the last window that shares a maximum overwrite the others, and takes the first image's gradient for
    all where nothing differs from the reference.
    """

    def _backward_hook(self, module: Any, grad_input: Tensor, grad_output: Tensor) -> Tensor:
        if not isinstance(module, nn.MaxPool2d):
            return super()._backward_hook(module, grad_input, grad_output)  # type: ignore[no-any-return]
        before: Tensor = module.input  # type: ignore[assignment]
        after: Tensor = module.output  # type: ignore[assignment]
        images, references = before.chunk(2)
        out, out_of_reference = after.chunk(2)
        largest = torch.maximum(out, out_of_reference)
        shares = grad_output * torch.cat([largest - out_of_reference, out - largest])
        window: tuple[Any, ...] = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        _, places = nn.functional.max_pool2d(before, *window, return_indices=True)
        shared = torch.zeros_like(before).flatten(2).scatter_add(2, places.flatten(2), shares.flatten(2))
        contributions = torch.stack(shared.view_as(before).chunk(2)).sum(dim=0)
        difference = images - references
        del module.input, module.output
        alike = difference.abs() < self.eps
        multipliers = contributions / difference.where(~alike, torch.ones_like(difference))
        return torch.where(alike.repeat(2, 1, 1, 1), grad_input, multipliers.repeat(2, 1, 1, 1))


def check_deeplift(classifier: Classifier, explainer: str) -> None:
    """Try whether DeepLIFT's contributions add up, on one image, for every class.

    Raises:
        NotApplicableError: they don't, or captum says why it can't.
    """
    image = sample_image(classifier)
    reference, count = torch.zeros_like(image), len(classifier.classes)
    who, instead = type(classifier).__name__, "use integrated_gradients"
    many = image.repeat(count, 1, 1, 1).requires_grad_(True)
    targets = torch.arange(count, device=image.device)
    try:
        with unchanged(classifier), _apart(classifier), _quiet(), frozen(classifier):
            found = _DeepLift(classifier).attribute(many, reference, target=targets).detach()
    except (RuntimeError, AssertionError) as error:
        reason = "it runs a layer more than once" if "more than once" in str(error) else first_line(error)
        raise NotApplicableError(f"{explainer} can't follow {who} ({reason}): {instead}") from error
    found = found.sum(dim=(1, 2, 3))
    with torch.no_grad():
        wanted = (classifier(image) - classifier(reference))[0]
    if not (found - wanted).norm() <= 0.01 * wanted.norm():
        share = float((found - wanted).norm() / wanted.norm())
        raise NotApplicableError(
            f"{explainer}'s contributions must add up to the change of the logits and miss it by {share:.0%} on {who}, "
            f"which has layers without a rule: {instead}"
        )


@contextmanager
def _apart(classifier: Classifier) -> Iterator[None]:
    """Give each activation and pool an input of its own.

    Where one follows another, captum hooks one tensor for both, and the first is handed the gradient that the second's
    rule has not changed yet (DeepLIFT on ReLU and max pooling, in every ResNet and DenseNet, misses by some 10%).
    """
    kinds = (*SUPPORTED_NON_LINEAR, *RECTIFIERS)
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs: tuple(value.clone() for value in inputs))
        for layer in classifier.modules()
        if isinstance(layer, kinds)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out captum's notice, with each image, that it hooks layers and takes the hooks back."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Setting (forward, )?backward hooks", category=UserWarning)
        yield
