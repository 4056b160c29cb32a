"""A network of the user's own, with its weights as they are: `ModuleClassifier` around any `nn.Module`.

From Python ``xaibench.evaluate(my_model, ...)``; by name ``module:pkg.mod:attribute`` or ``module:file.py:attribute``,
where the attribute is the network, or a class or function that makes it when called without arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, Weights, hash_tensors, seeded
from xaibench.classifiers.copies import copied
from xaibench.classifiers.hooked import Hooked, Target
from xaibench.classifiers.outside import Columns, Normalization, Prepare, trial_image
from xaibench.classifiers.probe import check_network, probe_images, splits_well
from xaibench.classifiers.target import NoTargetError, find_target
from xaibench.classifiers.tokens import TokenGrid, is_vision_transformer
from xaibench.errors import PLUGIN_ERRORS, UsageError, first_line
from xaibench.torch_settings import restored_settings
from xaibench.types import Prediction

NO_LAYER = "none"


class ModuleClassifier(Classifier):
    """Any network from images (B, 3, H, W) to logits (B, K). It is copied; the copy is explained and never trained.

    Args:
        classes: K class names.
        input_size: side of the images.
        module: the network. It gives logits (B, K), or an object, mapping or tuple with them, in any precision.
        layer: what is explained: the name of one of its modules, or that module. None: the one that `find_target`
            finds. "none": no layer, for methods that need none (gradients of the image, changed images).
        layout: how that layer's output lies on the image, taken as right without a test: "channels_first" (B, C, h, w),
            "channels_last" (B, h, w, C), "tokens" (B, N, C) or "tokens_first" (N, B, C). None: found by a test.
        normalize: see `Normalization`.
        channels: 3, or 1 for a network of grey images.
        resize: side that the network sees images at, when it is not theirs.
        outputs: which of the network's outputs the classes are; None: all, in order.
        negative: of a network with one logit and two classes, the class that a low value means; see `Columns`.
        copy: False takes the module itself, for one that can't be copied; it is switched to eval mode.

    The head is the network itself, run with the layer's output replaced: what comes before the layer runs again, unless
    it is inside it (a container such as torchvision's ``features``) or the layer is the last block's input of a Vision
    Transformer of timm.

    Raises:
        UsageError: an option out of its range, a network that takes no such images or gives no logits, one whose output
            for an image depends on the others of the batch or on chance, or a layer that is none.
    """

    comes_trained = True

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 224,
        *,
        module: nn.Module,
        layer: str | nn.Module | None = None,
        layout: str | None = None,
        normalize: Normalization = "imagenet",
        channels: int = 3,
        resize: int | None = None,
        outputs: Sequence[int] | None = None,
        negative: str | None = None,
        copy: bool = True,
    ) -> None:
        super().__init__(classes, input_size)
        self.what = type(module).__name__
        self.normalize = Prepare(self.what, normalize, channels, resize)
        self.columns = Columns(self.what, classes, outputs, negative)
        if layout is not None and layer is None:
            raise UsageError(f"{self.what}: layout = {layout!r} says how a layer's output is laid out: give layer too")
        if isinstance(layer, nn.Module):
            layer = _name_of(module, layer)
        self.module: Any = copied(module, self.what) if copy else module
        self.weights = Weights(f"module:{self.what}", hash_tensors(module.state_dict().items()))
        self.eval()
        self.normalize.to(_device_of(module))
        self.split: Hooked | TokenGrid | None = None
        self._try_precisions()
        check_network(self, self.what)
        self._choose(layer, layout)
        self.head_is_pooled_linear = self._last_linear() is not None

    def features(self, images: Tensor) -> Tensor:
        if self.split is None:
            return images * 1.0
        return (
            self.split.features(images)
            if isinstance(self.split, TokenGrid)
            else self.split.features(self._runs(images))
        )

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        if self.split is None:
            return self.forward(features)
        if isinstance(self.split, TokenGrid):
            return self.columns(self.split.head(features, images), len(images))
        return self.columns(self.split.head(self._runs(images), features), len(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.columns(self._runs(images)(), len(images))

    def predict(self, images: Tensor, ids: Sequence[str] = ()) -> Prediction:
        if not isinstance(self.split, Hooked):
            return super().predict(images, ids)
        output, features = self.split.both(self._runs(images))
        return Prediction(self.ids_of(images, ids), images, self.columns(output, len(images)), features)

    def class_weights(self) -> Tensor:
        """Return the last layer's weights, (K, C).

        Raises:
            UsageError: the head is not global average pooling and one linear layer.
        """
        last = self._last_linear() if self.head_is_pooled_linear else None
        if last is None:
            raise UsageError(f"{self.what}'s head is more than average pooling and one linear layer")
        return self.columns.chosen(last.weight.T).T.float()

    def check_task(self, task: str) -> None:
        self.columns.check_task(task)

    @property
    def device(self) -> torch.device:
        return self.normalize.scale.mean.device

    @property
    def layer_name(self) -> str:
        """The path of the explained layer, "" where there is none."""
        return self.target.name if self.target else ""

    def set_memory_format(self, memory_format: torch.memory_format) -> None:
        super().set_memory_format(memory_format)
        self.normalize.memory_format = memory_format
        if isinstance(self.split, Hooked):
            self.split.memory_format = memory_format

    def _runs(self, images: Tensor) -> Callable[[], Any]:
        enlarged = images.shape[-1] / self.input_size  # probe images may be larger
        return lambda: self.module(self.normalize(images, enlarged))

    def _try_precisions(self) -> None:
        """Find the precision of images that the network takes, and whether it takes them and gives logits at all."""
        own = next((tensor.dtype for tensor in self.module.parameters() if tensor.is_floating_point()), torch.float32)
        images = probe_images(self.input_size)[:1].to(self.device)
        fault: BaseException | None = None
        for dtype in dict.fromkeys((own, torch.float32, torch.float64)):
            self.normalize.dtype = dtype
            try:
                with torch.no_grad():
                    self(images)
                return
            except UsageError:
                raise
            except PLUGIN_ERRORS as error:  # whatever a user's network raises
                fault = fault or error
        assert fault is not None
        side = self.normalize.resize or self.input_size
        half = own in (torch.float16, torch.bfloat16)
        remedy = "call its float() first" if half else "See its options channels and resize"
        raise UsageError(
            f"{self.what} takes no images of {self.normalize.channels} x {side} x {side}: {first_line(fault)}. {remedy}"
        ) from fault

    def _choose(self, layer: str | None, layout: str | None) -> None:
        """Choose the explained layer, and split the network there so that head(features) is the network."""
        if layer == NO_LAYER:
            self.has_features, self.no_target = False, "by the option layer=none there is none"
            return
        try:
            self.target = find_target(self.module, self.forward, self.input_size, self.device, layer=layer, kind=layout)
        except NoTargetError as error:
            raise UsageError(
                f"{self.what}: {first_line(error, 300)}, so that there is nothing to explain: name a layer with "
                "layer=, and how it is laid out with layout=; or take layer=none (or save it as TorchScript, "
                "torchscript:FILE) for methods that need no layer, such as saliency, occlusion or rise"
            ) from error
        except UsageError as error:
            raise UsageError(f"{self.what} has {first_line(error, 600)}") from error
        images = probe_images(self.input_size).to(self.device)
        for split in self._splits(self.target):
            self.split = split
            with torch.no_grad():
                if splits_well(self, images):
                    return
        raise UsageError(
            f"{self.what} gives other logits when the output of its layer {self.target.name!r} is put in place by "
            "hand: name another with layer=, or take layer=none for methods that need no layer"
        )

    def _splits(self, target: Target) -> Iterator[Hooked | TokenGrid]:
        """Yield the ways to split the network at its target, the fastest first."""
        if self.normalize.channels == 3 and is_vision_transformer(self.module):
            grid = TokenGrid(self.module, self.normalize)
            if grid.layer == target.name:
                yield grid
        yield Hooked(self.module, target)

    def _last_linear(self) -> nn.Linear | None:
        """Find by trial the linear layer that with average pooling makes the head: names prove nothing."""
        if not isinstance(self.split, Hooked):
            return None
        image = trial_image(self.normalize, self.input_size)
        with torch.no_grad():
            features = torch.randn(self.features(image).shape, generator=torch.Generator().manual_seed(0)).to(image)
            try:
                logits = self.head(features, image)
            except RuntimeError:
                return None
            pooled = features.mean(dim=(-2, -1))
            for layer in reversed(list(self.module.modules())):
                if isinstance(layer, nn.Linear) and layer.in_features == features.shape[1]:
                    closed = F.linear(pooled.to(layer.weight.dtype), layer.weight, layer.bias)
                    with suppress(UsageError):
                        chosen = self.columns.chosen(closed).float()
                        if torch.allclose(chosen, logits, atol=1e-4):
                            return layer
        return None


class FromPython(ModuleClassifier):
    """A network by its import path: ``module:pkg.mod:attribute`` or ``module:file.py:attribute``; see this file's head.

    Its code runs under a seed of its own: weights that it draws are the same every time and change no one else's draws.
    What it sets of torch, such as the default dtype, is put back.

    Args:
        classes: K class names.
        input_size: side of the images.
        model: the import path.
        layer, layout, normalize, channels, resize, outputs, negative, copy: see `ModuleClassifier`.

    Raises:
        UsageError: nothing there, or no network; else as `ModuleClassifier`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 224,
        *,
        model: str,
        layer: str | None = None,
        layout: str | None = None,
        normalize: Normalization = "imagenet",
        channels: int = 3,
        resize: int | None = None,
        outputs: Sequence[int] | None = None,
        negative: str | None = None,
        copy: bool = True,
    ) -> None:
        with seeded(0), restored_settings():
            module = import_module_of(model)
        super().__init__(
            classes,
            input_size,
            module=module,
            layer=layer,
            layout=layout,
            normalize=normalize,
            channels=channels,
            resize=resize,
            outputs=outputs,
            negative=negative,
            copy=copy,
        )
        self.weights = Weights(f"module:{model}", self.weights.sha256)


def import_module_of(path: str) -> nn.Module:
    """Import the network that ``pkg.mod:attribute`` or ``file.py:attribute`` names. It executes that code.

    Raises:
        UsageError: nothing there, an error in it, or no network.
    """
    where, _, attribute = path.rpartition(":")
    if not where or not attribute:
        raise UsageError(f"module:{path}: write module:PACKAGE.MODULE:ATTRIBUTE or module:FILE.py:ATTRIBUTE")
    try:
        found: Any = _import_file(Path(where).expanduser()) if where.endswith(".py") else importlib.import_module(where)
        for part in attribute.split("."):
            found = getattr(found, part)
        if not isinstance(found, nn.Module) and callable(found):
            found = found()
    except PLUGIN_ERRORS as error:  # whatever the user's code raises
        raise UsageError(f"module:{path}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(found, nn.Module):
        raise UsageError(f"module:{path} is a {type(found).__name__}; it is an nn.Module, or what makes one")
    return found


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    name = f"_xaibench_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))


def _name_of(module: nn.Module, layer: nn.Module) -> str:
    for name, known in module.named_modules():
        if known is layer:
            return str(name)
    raise UsageError(f"layer: this {type(layer).__name__} is no module of the {type(module).__name__}")
