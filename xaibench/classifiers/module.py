"""A network of the user's own, with its weights as they are: `ModuleClassifier` around any `nn.Module`.

From Python ``xaibench.evaluate(my_model, ...)``; by name ``module:pkg.mod:attribute`` or ``module:file.py:attribute``,
where the attribute is the network, or a class or function that makes it when called without arguments.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, Weights, hash_tensors, seeded
from xaibench.classifiers.outside import Columns, Normalization, Prepare, trial_image
from xaibench.classifiers.tokens import TokenGrid, is_vision_transformer
from xaibench.errors import UsageError, XaibenchError, first_line
from xaibench.types import Prediction

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class ModuleClassifier(Classifier):
    """Any network from images (B, 3, H, W) to logits (B, K). It is copied; the copy is explained and never trained.

    Args:
        classes: K class names.
        input_size: side of the images.
        module: the network.
        layer: what is explained: the name of one of its modules with an output (B, C, h, w), or that module. None: the
            last such one that runs, adaptive pooling left aside; of a timm ViT the last block's input.
        normalize: see `Normalization`.
        channels: 3, or 1 for a network of grey images.
        resize: side that the network sees images at, when it is not theirs.
        outputs: which of the network's outputs the classes are; None: all, in order.

    The head is the network itself, run with the layer's output replaced: what comes before the layer runs again, unless
    it is inside it (a container such as torchvision's ``features``).

    Raises:
        UsageError: an option out of its range, a network that takes no such images or gives no logits, or no layer.
    """

    comes_trained = True

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 224,
        *,
        module: nn.Module,
        layer: str | nn.Module | None = None,
        normalize: Normalization = "imagenet",
        channels: int = 3,
        resize: int | None = None,
        outputs: Sequence[int] | None = None,
    ) -> None:
        super().__init__(classes, input_size)
        self.what = type(module).__name__
        self.normalize = Prepare(self.what, normalize, channels, resize)
        self.columns = Columns(self.what, classes, outputs)
        if isinstance(layer, nn.Module):
            layer = _name_of(module, layer)
        self.module: Any = copy.deepcopy(module)
        self.weights = Weights(f"module:{self.what}", hash_tensors(module.state_dict().items()))
        self.eval()
        device = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
        self.normalize.to(device)
        grid = layer is None and channels == 3 and is_vision_transformer(module)
        self.tokens = TokenGrid(self.module, self.normalize) if grid else None
        image = trial_image(self.normalize, input_size)
        self.layer_name, self._call = (
            ("the last block's input", 1) if self.tokens else self._choose(image, self._spatial(image), layer)
        )
        self.head_is_pooled_linear = self._last_linear(image) is not None

    def features(self, images: Tensor) -> Tensor:
        if self.tokens is not None:
            return self.tokens.features(images)
        try:
            with self._layer(self._stop):
                self.module(self.normalize(images))
        except _Stop as stop:
            return stop.features
        raise UsageError(f"{self.what} did not run its layer {self.layer_name!r}: give another layer")

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        if self.tokens is not None:
            return self.columns(self.tokens.head(features, images))
        with self._layer(lambda _: features.clone()):  # an in-place activation may follow
            return self.columns(self.module(self.normalize(images)))

    def forward(self, images: Tensor) -> Tensor:
        return self.columns(self.module(self.normalize(images)))

    def predict(self, images: Tensor, ids: Sequence[str] = ()) -> Prediction:
        if self.tokens is not None:
            return super().predict(images, ids)
        if ids and len(ids) != len(images):
            raise ValueError(f"{len(ids)} ids for {len(images)} images")
        seen: list[Tensor] = []

        def keep(run: Callable[[], Tensor]) -> Tensor:
            output = run()
            seen.append(output.clone())
            return output

        with self._layer(keep):
            logits = self.columns(self.module(self.normalize(images)))
        return Prediction(tuple(ids) or tuple(map(str, range(len(images)))), images, logits, seen[0])

    def class_weights(self) -> Tensor:
        """Return the last layer's weights, (K, C).

        Raises:
            UsageError: the head is not global average pooling and one linear layer.
        """
        last = self._last_linear(trial_image(self.normalize, self.input_size)) if self.head_is_pooled_linear else None
        if last is None:
            raise UsageError(f"{self.what}'s head is more than average pooling and one linear layer")
        return last.weight if self.columns.outputs is None else last.weight[self.columns.outputs]

    @property
    def device(self) -> torch.device:
        return self.normalize.scale.mean.device

    @contextmanager
    def _layer(self, instead: Callable[[Callable[[], Tensor]], Tensor]) -> Iterator[None]:
        """Let `instead` take the layer's place for the block; it is handed what would run the layer."""
        layer = self.module.get_submodule(self.layer_name)
        forward, calls = layer.forward, 0

        def run(*inputs: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self._call:
                return forward(*inputs, **options)
            return instead(lambda: forward(*inputs, **options))

        was_own = "forward" in vars(layer)
        layer.forward = run
        try:
            yield
        finally:
            if was_own:
                layer.forward = forward
            else:
                del layer.forward

    @staticmethod
    def _stop(run: Callable[[], Tensor]) -> Tensor:
        raise _Stop(run().clone())

    def _spatial(self, image: Tensor) -> list[str]:
        """Run one image and name the modules with an output (B, C, h, w), in the order in which they end."""
        names: list[str] = []
        handles = []
        for name, layer in self.module.named_modules():
            if name and not isinstance(layer, torch.jit.ScriptModule):

                def note(_: Any, __: Any, output: Any, name: str = name) -> None:
                    if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
                        names.append(name)

                handles.append(layer.register_forward_hook(note))
        try:
            with torch.no_grad():
                self.columns(self.module(self.normalize(image)))
        except XaibenchError:
            raise
        except Exception as error:  # whatever a user's network raises
            side = self.normalize.resize or self.input_size
            raise UsageError(
                f"{self.what} takes no images of {self.normalize.channels} x {side} x {side}: {first_line(error)}. "
                "See its options channels and resize"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        return names

    def _choose(self, image: Tensor, spatial: Sequence[str], layer: str | None) -> tuple[str, int]:
        """Return the name of the explained layer, and at which of its calls."""
        if layer is not None:
            if layer not in spatial:
                near = f"; it has {', '.join(dict.fromkeys(spatial))}"[:300] if spatial else ""
                raise UsageError(f"{self.what} has no module {layer!r} with an output (B, C, h, w){near}")
            return layer, spatial.count(layer)
        for name in reversed(spatial):
            if not isinstance(self.module.get_submodule(name), _POOLS):
                return name, spatial.count(name)
        raise UsageError(
            f"no module of {self.what} has an output (B, C, h, w), so that there is nothing to explain: save it as "
            "TorchScript and use torchscript:FILE with occlusion or rise"
        )

    def _last_linear(self, image: Tensor) -> nn.Linear | None:
        """Find by trial the linear layer that with average pooling makes the head: names prove nothing."""
        if self.tokens is not None:
            return None
        with torch.no_grad():
            features = torch.randn(self.features(image).shape, generator=torch.Generator().manual_seed(0)).to(image)
            try:
                logits = self.head(features, image)
            except RuntimeError:
                return None
            for layer in reversed(list(self.module.modules())):
                if isinstance(layer, nn.Linear) and layer.in_features == features.shape[1]:
                    closed = F.linear(features.mean(dim=(-2, -1)), layer.weight, layer.bias)
                    chosen = closed if self.columns.outputs is None else closed[:, self.columns.outputs]
                    if chosen.shape == logits.shape and torch.allclose(chosen, logits, atol=1e-4):
                        return layer
        return None


class FromPython(ModuleClassifier):
    """A network by its import path: ``module:pkg.mod:attribute`` or ``module:file.py:attribute``; see this file's head.

    Its code runs under a seed of its own: weights that it draws are the same every time and change no one else's draws.

    Args:
        classes: K class names.
        input_size: side of the images.
        model: the import path.
        layer, normalize, channels, resize, outputs: see `ModuleClassifier`.

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
        normalize: Normalization = "imagenet",
        channels: int = 3,
        resize: int | None = None,
        outputs: Sequence[int] | None = None,
    ) -> None:
        with seeded(0):
            module = import_module_of(model)
        super().__init__(
            classes,
            input_size,
            module=module,
            layer=layer,
            normalize=normalize,
            channels=channels,
            resize=resize,
            outputs=outputs,
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
    except Exception as error:  # whatever the user's code raises
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


class _Stop(Exception):
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def _name_of(module: nn.Module, layer: nn.Module) -> str:
    for name, known in module.named_modules():
        if known is layer:
            return str(name)
    raise UsageError(f"layer: this {type(layer).__name__} is no module of the {type(module).__name__}")
