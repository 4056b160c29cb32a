"""Methods that need forward passes only: what the class's logit loses as parts of the image are hidden.

Hidden parts show the reference image, grey unless the option `reference` says otherwise. Every image is explained by
itself, its changed copies batched; what is random is drawn from the image's id.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

import captum.attr
import torch
import torch.nn.functional as F
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor

from xaibench.classifiers.base import Classifier, seeded
from xaibench.datasets.base import Splits
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers.base import Explainer, seed_of
from xaibench.explainers.gradient import whole_number
from xaibench.explainers.reference import Reference
from xaibench.types import Frame, Prediction


class _Hiding(Explainer):
    """Base of the methods that hide parts of the image.

    Attributes:
        name: as registered, for messages.
        batch_size: how many changed copies go through the network at once.
    """

    runs_body = True
    name: str

    def __init__(self, reference: str = "grey", batch_size: int = 32) -> None:
        self.reference = Reference(self.name, reference)
        self.batch_size = whole_number(self.name, "batch_size", batch_size)

    def prepare(self, splits: Splits) -> None:
        self.reference.prepare(splits)

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = []
        with torch.no_grad():
            for row, (image_id, target) in enumerate(zip(prediction.ids, targets.tolist(), strict=True)):
                image = prediction.images[row : row + 1].detach().contiguous()
                maps.append(self.map(classifier, image, target, image_id))
        return torch.stack(maps).float()

    @abstractmethod
    def map(self, classifier: Classifier, image: Tensor, target: int, image_id: str) -> Tensor:
        """Return the map (H, W) of an image (1, 3, H, W)."""


class Occlusion(_Hiding):
    """Occlusion (Zeiler and Fergus 2014): the logit's loss under a sliding square, averaged over those on a pixel.

    Args:
        window: side of the square, as a share of the image's (an eighth: 28 px of 224).
        step: how far it slides, as a share of its side; one half makes 225 forward passes an image.
        reference: what the square shows, see `Reference`; the paper's is grey.
        batch_size: copies in a forward pass.

    Raises:
        UsageError: an option out of its range.
    """

    name = "occlusion"

    def __init__(self, window: float = 0.125, step: float = 0.5, reference: str = "grey", batch_size: int = 32) -> None:
        super().__init__(reference, batch_size)
        for option, value in (("window", window), ("step", step)):
            if not 0 < value <= 1:
                raise UsageError(f"{self.name}: {option} = {value}; it is a share, above 0 and at most 1")
        self.window, self.step = window, step

    def map(self, classifier: Classifier, image: Tensor, target: int, image_id: str) -> Tensor:
        window = [max(1, round(self.window * side)) for side in image.shape[-2:]]
        strides = [max(1, round(self.step * side)) for side in window]
        found = captum.attr.Occlusion(classifier).attribute(
            image,
            sliding_window_shapes=(3, *window),
            strides=(3, *strides),
            baselines=self.reference(image),
            target=target,
            perturbations_per_eval=self.batch_size,
        )
        return found[0, 0]  # type: ignore[no-any-return]  # the square hides all channels: they share one value


class _Superpixels(_Hiding):
    """Base of the methods that hide superpixels: a superpixel's pixels share its value."""

    def __init__(
        self, superpixels: str = "slic", segments: int = 50, reference: str = "grey", batch_size: int = 32
    ) -> None:
        super().__init__(reference, batch_size)
        if superpixels not in ("slic", "grid"):
            raise UsageError(f'{self.name}: superpixels = {superpixels!r}; it is "slic" or "grid"')
        self.superpixels = superpixels
        self.segments = whole_number(self.name, "segments", segments, least=2)

    def check(self, classifier: Classifier) -> None:
        if self.superpixels == "slic":
            slic(torch.zeros(1, 3, 8, 8), 2, self.name)

    def parts(self, image: Tensor) -> Tensor:
        """Return the number of each pixel's superpixel, from 0, (1, 1, H, W) int64."""
        if self.superpixels == "slic":
            return slic(image, self.segments, self.name)
        return grid(Frame(*image.shape[-2:]), self.segments)[None, None].to(image.device)


class FeatureAblation(_Superpixels):
    """Feature ablation (captum): the logit's loss without each superpixel. One forward pass for each.

    Args:
        superpixels: "slic" (scikit-image, on the grey image) or "grid" (squares).
        segments: about how many.
        reference: what a hidden superpixel shows, see `Reference`.
        batch_size: copies in a forward pass.

    Raises:
        UsageError: an option out of its range.
    """

    name = "feature_ablation"

    def map(self, classifier: Classifier, image: Tensor, target: int, image_id: str) -> Tensor:
        found = captum.attr.FeatureAblation(classifier).attribute(
            image,
            baselines=self.reference(image),
            target=target,
            feature_mask=self.parts(image).expand(-1, 3, -1, -1),
            perturbations_per_eval=self.batch_size,
        )
        return found[0, 0]  # type: ignore[no-any-return]


class _Sampled(_Superpixels):
    """Base of the methods that fit a linear model to the logits of random sets of superpixels."""

    def __init__(
        self,
        samples: int = 1000,
        superpixels: str = "slic",
        segments: int = 50,
        reference: str = "grey",
        batch_size: int = 32,
    ) -> None:
        super().__init__(superpixels, segments, reference, batch_size)
        self.samples = whole_number(self.name, "samples", samples, least=2)

    def map(self, classifier: Classifier, image: Tensor, target: int, image_id: str) -> Tensor:
        parts = self.parts(image)
        with seeded(seed_of(self.name, image_id)):  # captum draws from the global generator of the CPU
            weights: Tensor = self.method(classifier).attribute(
                image,
                baselines=self.reference(image),
                target=target,
                feature_mask=parts,
                n_samples=self.samples,
                perturbations_per_eval=self.batch_size,
                return_input_shape=False,
            )
        return weights.flatten().to(image.device)[parts[0, 0]]

    @abstractmethod
    def method(self, classifier: Classifier) -> captum.attr.Lime:
        """Return captum's method."""


class LIME(_Sampled):
    """LIME (Ribeiro 2016): a weighted ridge regression of the logit on which superpixels are shown.

    Weights fall with the cosine distance from the whole image, at a width of 0.25, as in its authors' code.

    Args:
        samples: forward passes an image; 1,000 as in its authors' code.
        superpixels: "slic" (scikit-image, on the grey image) or "grid" (squares).
        segments: about how many superpixels.
        reference: what a hidden superpixel shows, see `Reference`.
        batch_size: copies in a forward pass.

    Raises:
        UsageError: an option out of its range.
    """

    name = "lime"

    def method(self, classifier: Classifier) -> captum.attr.Lime:
        return captum.attr.Lime(classifier, SkLearnRidge(alpha=1.0), similarity_func=_nearness)


class KernelShap(_Sampled):
    """KernelSHAP (Lundberg 2017): Shapley values of the superpixels, by a regression on random sets of them.

    Adds up to the logit less the reference's.

    Args:
        samples: forward passes an image, 1,000.
        superpixels: "slic" (scikit-image, on the grey image) or "grid" (squares).
        segments: about how many superpixels.
        reference: what a hidden superpixel shows, see `Reference`.
        batch_size: copies in a forward pass.

    Raises:
        UsageError: an option out of its range.
    """

    name = "kernel_shap"

    def method(self, classifier: Classifier) -> captum.attr.Lime:
        return captum.attr.KernelShap(classifier)


class RISE(Explainer):
    """RISE (Petsiuk 2018): the mean of random masks, weighted by the class's probability of the image they dim.

    In a multi-label benchmark the probability is the class's own, a sigmoid.

    A mask is a coarse grid of zeros and ones, brought up bilinearly and shifted at random; it dims towards black. One
    forward pass for each mask serves all classes.

    Args:
        masks: 4,000 as in the paper (8,000 for a ResNet-50).
        cells: of the grid, in each direction; 7.
        shown: the probability of a one; 0.5.
        batch_size: masks in a forward pass.

    Raises:
        UsageError: an option out of its range.
    """

    runs_body = True
    name = "rise"

    def __init__(self, masks: int = 4000, cells: int = 7, shown: float = 0.5, batch_size: int = 32) -> None:
        self.masks = whole_number(self.name, "masks", masks)
        self.cells = whole_number(self.name, "cells", cells)
        self.batch_size = whole_number(self.name, "batch_size", batch_size)
        if not 0 < shown < 1:
            raise UsageError(f"{self.name}: shown = {shown}; it is a probability, above 0 and below 1")
        self.shown = shown

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps: dict[str, Tensor] = {}
        for row, image_id in enumerate(prediction.ids):
            if image_id not in maps:
                with torch.no_grad():
                    maps[image_id] = self.all_classes(classifier, prediction.images[row].detach(), image_id)
        return torch.stack([maps[image_id][target] for image_id, target in zip(prediction.ids, targets, strict=True)])

    def all_classes(self, classifier: Classifier, image: Tensor, image_id: str) -> Tensor:
        """Return the maps of every class, (K, H, W), of an image (3, H, W)."""
        total = torch.zeros(len(classifier.classes), *image.shape[-2:], device=image.device)
        for masks in self.draw(Frame(*image.shape[-2:]), image_id):
            masks = masks.to(image.device)
            probabilities = classifier.probabilities(classifier(image * masks[:, None]))
            total += torch.einsum("nk,nhw->khw", probabilities, masks)
        return total / (self.masks * self.shown)

    def draw(self, frame: Frame, image_id: str) -> Iterator[Tensor]:
        """Yield the masks of an image in batches, (N, H, W) in [0, 1]; any batch size gives the same masks."""
        generator = torch.Generator().manual_seed(seed_of(self.name, image_id))
        cell = [-(-side // self.cells) for side in (frame.height, frame.width)]
        size = [(self.cells + 1) * side for side in cell]
        for start in range(0, self.masks, self.batch_size):
            batch = []
            for _ in range(min(self.batch_size, self.masks - start)):
                ones = (torch.rand(1, 1, self.cells, self.cells, generator=generator) < self.shown).float()
                y, x = (int(torch.randint(side, (), generator=generator)) for side in cell)
                mask = F.interpolate(ones, size, mode="bilinear", align_corners=False)
                batch.append(mask[0, 0, y : y + frame.height, x : x + frame.width])
            yield torch.stack(batch)


def slic(image: Tensor, segments: int, explainer: str) -> Tensor:
    """Return the superpixels of an image (1, 3, H, W), (1, 1, H, W) int64 from 0, by SLIC on its grey values.

    Raises:
        NotApplicableError: scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic as compute
    except ImportError as error:
        raise NotApplicableError(
            f"{explainer} makes its superpixels with scikit-image: pip install scikit-image, or use "
            'superpixels = "grid"'
        ) from error
    grey = image[0].mean(dim=0).cpu().numpy()
    parts = compute(grey, n_segments=segments, compactness=0.1, sigma=1.0, start_label=0, channel_axis=None)
    return torch.from_numpy(parts).long()[None, None].to(image.device)


def grid(frame: Frame, segments: int) -> Tensor:
    """Return about `segments` rectangles, (H, W) int64: as many rows as columns.

    >>> grid(Frame(2, 4), 4).tolist()
    [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    count = max(1, round(segments**0.5))
    rows, columns = min(count, frame.height), min(count, frame.width)
    y = torch.arange(frame.height) * rows // frame.height
    x = torch.arange(frame.width) * columns // frame.width
    parts: Tensor = y[:, None] * columns + x[None, :]
    return parts


def _nearness(_: Tensor, __: Tensor, shown: Tensor, **___: object) -> float:
    """LIME's kernel: the cosine distance of the superpixels shown (1, S), 0 or 1, from all of them."""
    share = float(shown.float().mean())
    return math.exp(-((1 - share**0.5) ** 2) / (2 * 0.25**2))  # the cosine with ones is the root of the share
