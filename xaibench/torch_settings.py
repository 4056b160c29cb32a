"""Global settings of torch and numpy that decide numbers: to notice what foreign code changes, and to put it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What reads a setting, and what sets it."""


def _attribute(owner: Any, name: str) -> _Setting:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _denormals_are_flushed() -> bool:
    return float(torch.tensor([1e-40], dtype=torch.float32, device="cpu") * 1) == 0


def _default_device() -> torch.device | None:
    """Return the default device, None where none was set: setting "cpu" itself would slow every call down."""
    device = torch.get_default_device()
    return None if device == torch.device("cpu") else device


def _global_hooks() -> dict[str, dict[int, Any]]:
    known = vars(nn.modules.module)
    return {
        name: dict(hooks) for name, hooks in known.items() if name.startswith("_global_") and isinstance(hooks, dict)
    }


def _set_global_hooks(value: Mapping[str, Mapping[int, Any]]) -> None:
    for name, hooks in value.items():
        found = getattr(nn.modules.module, name)
        found.clear()
        found.update(hooks)


_SETTINGS: dict[str, _Setting] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's default device": (_default_device, torch.set_default_device),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    "torch's float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch's flushing of denormals": (_denormals_are_flushed, torch.set_flush_denormal),
    "torch's autocast on the CPU": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
    ),
    "torch's autocast on the GPU": (
        lambda: torch.is_autocast_enabled("cuda"),
        lambda value: torch.set_autocast_enabled("cuda", value),
    ),
    "torch's oneDNN": _attribute(torch.backends.mkldnn, "enabled"),
    "torch's cuDNN": _attribute(torch.backends.cudnn, "enabled"),
    "torch's cuDNN benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    "torch's cuDNN determinism": _attribute(torch.backends.cudnn, "deterministic"),
    "the hooks on all modules": (_global_hooks, _set_global_hooks),
    "numpy's treatment of errors": (np.geterr, lambda value: np.seterr(**value)),
}


@contextmanager
def restored_settings() -> Iterator[list[str]]:
    """Put global settings back at the end of the block, and list those that had changed, each as a phrase."""
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, (read, write) in _SETTINGS.items():
            if (now := read()) != before[name]:
                shown = "" if isinstance(now, dict) else f" to {now}"
                changed.append(f"{name}{shown}")
                write(before[name])
