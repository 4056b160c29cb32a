"""Networks saved as programs: TorchScript, torch.export and ONNX. They run as they are and can't be looked into.

So there is no layer to explain: methods that need forward passes only (rise, occlusion, lime, ...) apply to all three,
those that need the image's gradient to TorchScript and exported programs too, CAM methods to none.

A program is code: run only those of people you trust. What would run at loading already, before any image, is refused
all the same: pickles, and compiled libraries inside an exported program.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier, Weights
from xaibench.classifiers.outside import Columns, Normalization, Prepare, existing, trial_image
from xaibench.classifiers.probe import check_network
from xaibench.errors import PLUGIN_ERRORS, UsageError, WeightsError, XaibenchError, first_line
from xaibench.io.limits import check_archive

_ONLY, _NOT_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class Program(Classifier):
    """Base of the three. `features` are the images, and the program is the head.

    Args:
        classes: K class names.
        input_size: side of the images.
        file: the program.
        normalize: see `Normalization`; a program that normalises for itself takes "none".
        channels: 3, or 1 for a network of grey images.
        resize: side that the network sees images at, when it is not theirs.
        outputs: which of the network's outputs the classes are; None: all, in order.
        negative: of a network with one logit and two classes, the class that a low value means; see `Columns`.

    Raises:
        UsageError: an option out of its range, or a program that takes no such images or gives no logits.
        WeightsError: no such file, or not such a program.
    """

    comes_trained = True
    has_features = False
    argument: ClassVar[str] = "file"
    kind: ClassVar[str]

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 224,
        *,
        file: str,
        normalize: Normalization = "imagenet",
        channels: int = 3,
        resize: int | None = None,
        outputs: Sequence[int] | None = None,
        negative: str | None = None,
    ) -> None:
        super().__init__(classes, input_size)
        what = f"{self.kind}:{file}"
        self.normalize = Prepare(what, normalize, channels, resize)
        self.columns = Columns(what, classes, outputs, negative)
        path = existing(file, what)
        self.weights = Weights(f"file:{file}", hashlib.sha256(path.read_bytes()).hexdigest())
        try:
            self.batch = self.load(path)  # how many images the program insists on
        except XaibenchError:
            raise
        except PLUGIN_ERRORS as error:  # each library has its own
            raise WeightsError(f"{what} is no such program: {first_line(error)}") from error
        self._try(what)

    @abstractmethod
    def load(self, path: Path) -> int | None:
        """Load the program, and return the batch size that it insists on, None for any."""

    @abstractmethod
    def run(self, images: Tensor) -> Any:
        """Return the program's output for normalised images."""

    def features(self, images: Tensor) -> Tensor:
        return images * 1.0

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        seen = self.normalize(features)
        if self.batch is None:
            return self.columns(self.run(seen), len(seen))
        found = []
        for chunk in torch.split(seen, self.batch):
            missing = self.batch - len(chunk)
            whole = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)]) if missing else chunk
            found.append(self.columns(self.run(whole), self.batch)[: len(chunk)])
        return torch.cat(found)

    def check_task(self, task: str) -> None:
        self.columns.check_task(task)

    @property
    def device(self) -> torch.device:
        return self.normalize.scale.mean.device

    def _try(self, what: str) -> None:
        try:
            with torch.no_grad():
                self(trial_image(self.normalize, self.input_size))
                check_network(self, what)
        except XaibenchError:
            raise
        except PLUGIN_ERRORS as error:  # each library has its own
            side = self.normalize.resize or self.input_size
            raise UsageError(
                f"{what} takes no images of {self.normalize.channels} x {side} x {side}: {first_line(error, 200)}. "
                "See its options channels and resize"
            ) from error


class _Torch(Program):
    program: tuple[Any, ...] = ()
    """In a tuple, so that it is no submodule: nothing can be hooked in it."""

    def run(self, images: Tensor) -> Any:
        return self.program[0](images)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for program in self.program:
            program.to(self.device)
        return self


class TorchScript(_Torch):
    """``torchscript:FILE``, a program of ``torch.jit.save``; see `Program`."""

    kind = "torchscript"

    def load(self, path: Path) -> int | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks for exported programs instead
            program = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        for parameter in program.parameters():  # requires_grad_ itself is not supported on a ScriptModule
            parameter.requires_grad_(False)
        self.program = (program,)
        return None


class Exported(_Torch):
    """``exported:FILE``, a program of ``torch.export.save`` (``.pt2``), exported in eval mode; see `Program`."""

    kind = "exported"

    def load(self, path: Path) -> int | None:
        if compiled := [name for name in check_archive(path) if "/aotinductor/" in f"/{name}"]:
            raise WeightsError(f"exported:{path} brings compiled code ({compiled[0]}): save it by torch.export.save")
        with _no_pickles():
            program = torch.export.load(str(path))
        self.program = (program.module().requires_grad_(False),)
        names = set(program.graph_signature.user_inputs)
        (images,) = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
        size = images.meta["val"].shape[0]
        return size if isinstance(size, int) else None


@contextmanager
def _no_pickles() -> Iterator[None]:
    """Keep torch from executing pickles, which torch.export.load asks for by itself (seen in 2.14)."""
    before = {name: os.environ.pop(name, None) for name in (_ONLY, _NOT_ONLY)}
    os.environ[_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[_ONLY]
        os.environ.update({name: value for name, value in before.items() if value is not None})


class Onnx(Program):
    """``onnx:FILE``, by onnxruntime on the CPU; no gradients. See `Program`.

    Raises:
        UsageError: onnxruntime is not installed.
    """

    kind = "onnx"

    def load(self, path: Path) -> int | None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError("onnx:FILE runs by onnxruntime: pip install 'xaibench[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])]
        inputs = self._session[0].get_inputs()
        if len(inputs) != 1:
            raise WeightsError(f"onnx:{path} takes {len(inputs)} inputs, not one of images")
        self._input = inputs[0].name
        size = inputs[0].shape[0]
        return size if isinstance(size, int) else None

    def run(self, images: Tensor) -> Any:
        array = np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)
        logits = self._session[0].run(None, {self._input: array})[0]
        return torch.from_numpy(np.asarray(logits, dtype=np.float32)).to(images.device)
