"""torchxrayvision's DenseNet-121, with its weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchxrayvision as xrv
from torch import Tensor, nn

from xaibench.classifiers.densenet import run_densenet
from xaibench.plugin import Classifier, UsageError, Weights, WeightsError, first_line, hash_tensors, seeded

_PREFIX = "densenet121-res224-"
_SIZE = 224


class XRVDenseNet(Classifier):
    """torchxrayvision's DenseNet-121: one grey channel in [-1024, 1024] at 224 px, one logit a pathology.

    Args:
        classes: K of the weights' pathologies, as torchxrayvision spells them ("Pleural_Thickening").
        input_size: side of the images; the network sees them at 224 px.
        weights: "all", "nih", "pc", "chex", "rsna", "mimic_nb" or "mimic_ch", which are fetched from torchxrayvision's
            site once and kept in ~/.torchxrayvision (a pickle, which torch executes); or "random", any classes.
        seed: of random weights.

    `features` are those after the last batch norm and ReLU, (B, 1024, 7, 7); the head is average pooling and one linear
    layer. Its logits are those of each pathology alone: for a multi-label benchmark.

    Raises:
        UsageError: a class that the weights do not have, or other weights.
        WeightsError: the weights can't be had.
    """

    head_is_pooled_linear = True

    def __init__(self, classes: Sequence[str], input_size: int = 224, *, weights: str = "all", seed: int = 0) -> None:
        super().__init__(classes, input_size)
        with seeded(seed):
            model = _model(weights, len(classes))
            self.last = nn.Linear(model.classifier.in_features, len(classes))
        rows = list(range(len(classes)))
        if weights != "random":
            known = list(model.targets)
            if missing := [name for name in classes if not name or name not in known]:
                there = ", ".join(filter(None, known))
                raise UsageError(f"xrv_densenet121: weights {weights!r} have no class {missing[0]!r}, only {there}")
            rows = [known.index(name) for name in classes]
        self.body: nn.Module = model.features
        with torch.no_grad():
            self.last.weight.copy_(model.classifier.weight[rows])
            self.last.bias.copy_(model.classifier.bias[rows])
        source = f"random (seed {seed})" if weights == "random" else f"torchxrayvision {xrv.__version__}: {weights}"
        self.weights = Weights(source, hash_tensors(self.state_dict().items()))

    def features(self, images: Tensor) -> Tensor:
        return run_densenet(self.body, self._prepared(images)).relu()

    def own_forward(self, images: Tensor) -> Tensor:
        """Return the logits by torchxrayvision's own pass."""
        return self.head(self.body(self._prepared(images)).relu(), images)

    @staticmethod
    def _prepared(images: Tensor) -> Tensor:
        grey = images.mean(dim=1, keepdim=True)
        if grey.shape[-1] != _SIZE or grey.shape[-2] != _SIZE:
            grey = F.interpolate(grey, size=_SIZE, mode="bilinear", antialias=True)
        return 2048 * grey - 1024

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(features.mean(dim=(-2, -1)))  # type: ignore[no-any-return]

    def class_weights(self) -> Tensor:
        return self.last.weight


def _model(weights: str, classes: int) -> nn.Module:
    if weights == "random":
        return xrv.models.DenseNet(num_classes=classes)  # type: ignore[no-any-return]
    name = weights if weights.startswith(_PREFIX) else _PREFIX + weights
    if name not in xrv.models.model_urls:
        known = sorted(key.removeprefix(_PREFIX) for key in xrv.models.model_urls if key.startswith(_PREFIX))
        raise UsageError(f'xrv_densenet121: weights = {weights!r}; it is one of {", ".join(known)}, or "random"')
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its download
            return xrv.models.DenseNet(weights=name)  # type: ignore[no-any-return]
    except Exception as error:  # requests' and torch's, a dozen kinds
        url = xrv.models.model_urls[name]["weights_url"]
        raise WeightsError(
            f"no weights {name}: {type(error).__name__}: {first_line(error)}. Connect to the network once, put "
            f'{url} into ~/.torchxrayvision/models_data, or give weights = "random"'
        ) from error
