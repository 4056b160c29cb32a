"""The further class activation maps of pytorch-grad-cam, on the head alone over features computed once.

Each is the library's own map before it clips and min-max scales it; a ReLU is kept where the method's definition has
one. Left out are RefineCAM and SESS: they combine the maps of several layers or crops, and here one layer is explained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from sklearn.decomposition import KernelPCA
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import UsageError
from xaibench.explainers.base import check_several, seed_of
from xaibench.explainers.cam import Array, GradCAM, LibraryCAM, Score, Traced


class GradCAMPlusPlus(LibraryCAM):
    """Grad-CAM++ (Chattopadhay 2018): positive gradients weighted by second and third powers, then ReLU."""

    method = library.GradCAMPlusPlus
    rectified = True


class HiResCAM(LibraryCAM):
    """HiResCAM (Draelos 2020): gradient times features at each place, summed over channels, signed."""

    method = library.HiResCAM


class GradCAMElementWise(LibraryCAM):
    """Element-wise Grad-CAM (pytorch-grad-cam): gradient times features, with a ReLU before the sum over channels."""

    method = library.GradCAMElementWise


class XGradCAM(LibraryCAM):
    """XGrad-CAM (Fu 2020): gradients weighted by each channel's share of its sum, which must not be 0; signed."""

    method = library.XGradCAM


class LayerCAM(LibraryCAM):
    """LayerCAM (Jiang 2021): features weighted by their positive gradients at each place, then ReLU."""

    method = library.LayerCAM
    rectified = True


class ShapleyCAM(LibraryCAM):
    """ShapleyCAM (Cai 2025) of the logit: Grad-CAM's weights less half a Hessian-vector product, then ReLU.

    The same as gradcam wherever the head is piecewise linear in the features (pooling and a linear layer; ReLUs).
    """

    method = library.ShapleyCAM
    rectified = True
    needs_gradients = False  # those that the library hands over have lost the graph that the second derivative needs

    def raw(self, traced: Traced) -> Array:
        features = traced.features.clone().requires_grad_(True)
        scores = [score(output) for score, output in zip(traced.scores, traced.head(features), strict=True)]
        (first,) = torch.autograd.grad(torch.stack(scores).sum(), features, create_graph=True)
        if not first.requires_grad:  # a linear head: there is no second derivative to ask the library for
            return _weighted(first.mean(dim=(2, 3)).cpu().numpy(), traced.activations)
        return traced.cam.get_cam_image(None, None, None, features, first, False)  # type: ignore[no-any-return]


class FinerCAM(GradCAM):
    """Finer-CAM (Zhang 2025): Grad-CAM of the class's logit less those of the classes nearest to it, then ReLU.

    Args:
        compared: how many classes of the nearest logits are compared with (those there are, where fewer).
        strength: the share of their logits that is taken off, weighted by their softmax (the paper's alpha).

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(self, compared: int = 3, strength: float = 1.0) -> None:
        if compared < 1:
            raise UsageError(f"finercam: compared = {compared}; it is the number of classes compared with, at least 1")
        self.compared, self.strength = compared, strength

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        check_several(classifier, "finercam", "gradcam")

    def scores(self, targets: Tensor, outputs: Tensor) -> Sequence[Score]:
        logits = outputs.detach()
        distances = (logits - logits.gather(1, targets[:, None])).abs()
        distances.scatter_(1, targets[:, None], -1)  # the class itself comes first, whatever ties with it
        nearest = distances.argsort(dim=1, stable=True)[:, 1 : self.compared + 1].tolist()
        return [
            FinerWeightedTarget(target, others, self.strength)
            for target, others in zip(targets.tolist(), nearest, strict=True)
        ]


class FEM(LibraryCAM):
    """Feature explanation method (Fuad 2020): channels weighted by their share of places above mean + 2 std.

    The same for every class.
    """

    method = library.FEM
    class_specific = False
    needs_gradients = False


class EigenCAM(LibraryCAM):
    """Eigen-CAM (Muhammad 2020): the features' projection on their first principal component.

    The same for every class. A principal component has no sign of its own: the map is turned so that its largest
    absolute value is positive (Seg-Eigen-CAM's equation 13). A reduced SVD replaces the library's full one.
    """

    method = library.EigenCAM
    class_specific = False
    needs_gradients = False

    def raw(self, traced: Traced) -> Array:
        return principal(self.projected(traced))

    def projected(self, traced: Traced) -> Array:
        """Return what is projected, (B, C, h, w)."""
        return traced.activations


class EigenGradCAM(EigenCAM):
    """Eigen-Grad-CAM (pytorch-grad-cam): Eigen-CAM of gradient times features, with its sign."""

    method = library.EigenGradCAM
    class_specific = True
    needs_gradients = True

    def projected(self, traced: Traced) -> Array:
        assert traced.gradients is not None
        return traced.gradients * traced.activations


class SegEigenCAM(EigenCAM):
    """Seg-Eigen-CAM (Chung 2025): Eigen-CAM of absolute gradient times features, with its sign."""

    method = library.SegEigenCAM
    class_specific = True
    needs_gradients = True

    def projected(self, traced: Traced) -> Array:
        assert traced.gradients is not None
        return np.abs(traced.gradients) * traced.activations


class KPCACAM(EigenCAM):
    """KPCA-CAM (Karmani 2024): the features' first component of a kernel PCA with a sigmoid kernel.

    The same for every class; the sign as in eigencam.
    """

    method = library.KPCA_CAM

    def raw(self, traced: Traced) -> Array:
        # Dense: above 200 places scikit-learn would take an iterative solver that starts at random.
        kernel = KernelPCA(n_components=1, kernel=traced.cam.kernel, gamma=traced.cam.gamma, eigen_solver="dense")
        maps = [kernel.fit_transform(places) for places in _centred_places(traced.activations)]
        return _turned(np.reshape(maps, (len(maps), *traced.activations.shape[2:])))


class RandomCAM(LibraryCAM):
    """RandomCAM (pytorch-grad-cam): features weighted at random in [-1, 1), drawn from the image's id and the class.

    What a CAM owes to the features alone, whatever the class's weights.
    """

    method = library.RandomCAM
    needs_gradients = False

    def raw(self, traced: Traced) -> Array:
        draws = [
            np.random.default_rng(seed_of("randomcam", image_id, target.category))  # type: ignore[attr-defined]
            for image_id, target in zip(traced.ids, traced.scores, strict=True)
        ]
        weights = np.array([draw.uniform(-1, 1, traced.activations.shape[1]) for draw in draws], dtype=np.float32)
        return _weighted(weights, traced.activations)


def principal(maps: Array) -> Array:
    """Project maps (B, C, h, w), centred over their places, on their first principal component: (B, h, w), turned.

    >>> ramp = np.array([[[[-1.0, 0.0, 3.0]], [[-2.0, 0.0, 6.0]]]], dtype=np.float32)  # two channels, in proportion
    >>> print(principal(ramp).round(3)[0, 0])  # sqrt(5) times the first channel less its mean of 2/3
    [-3.727 -1.491  5.217]
    """
    left, sizes, _ = np.linalg.svd(_centred_places(maps), full_matrices=False)
    return _turned((left[:, :, 0] * sizes[:, :1]).reshape(len(maps), *maps.shape[2:]))


def _weighted(weights: Array, maps: Array) -> Array:
    """Sum maps (B, C, h, w) over their channels with weights (B, C)."""
    found: Array = np.einsum("bc,bchw->bhw", weights, maps)
    return found


def _centred_places(maps: Array) -> Array:
    """Return maps (B, C, h, w) as (B, h * w, C), less each channel's mean; NaN counts as 0, as in the library."""
    places = np.nan_to_num(maps, posinf=np.inf, neginf=-np.inf).reshape(*maps.shape[:2], -1).swapaxes(1, 2)
    centred: Array = places - places.mean(axis=1, keepdims=True)
    return centred


def _turned(maps: Array) -> Array:
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.where(-low > high, -maps, maps).astype(np.float32)
