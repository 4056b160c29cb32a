"""Every metric of ours passes the kit, and the kit sees each fault that one can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from xaibench.metrics.base import Metric, Pool, metric
from xaibench.metrics.explained import Explained
from xaibench.registry import entries
from xaibench.testing import check_metric


@pytest.mark.parametrize("name", [entry.name for entry in entries("metrics") if entry.is_builtin])
def test_conforms(name: str) -> None:
    assert [finding for finding in check_metric(name) if finding.severity != "note"] == []


def share(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the squared map inside: NaN for an empty mask and a constant or non-finite map."""
    energy = maps.double() ** 2
    inside = (energy * masks).sum((1, 2)) / energy.sum((1, 2))
    flat = maps.flatten(1)
    constant = ~(flat.amax(1) > flat.amin(1)) | ~masks.flatten(1).any(1)
    return inside.where(~constant, torch.nan)


SOUND = Metric("share", share, "localization", "higher", (0, 1), "Nobody 2026", "Share", chance=0.1)


def _shares(maps: Tensor, masks: Tensor, *, powers: tuple[int, ...] = (1, 2, 4)) -> Tensor:
    return 10 * torch.stack([share(maps.double().abs() ** (power / 2), masks) for power in powers], dim=1)


def _chances(masks: Tensor, *, powers: tuple[int, ...] = (1, 2, 4)) -> Tensor:
    return torch.full((len(masks), len(powers)), 1.0, dtype=torch.float64)


def _columns(*, powers: tuple[int, ...]) -> int:
    return len(powers)


POOLED = replace(
    SOUND,
    compute=_shares,
    chance=_chances,
    parameters={"powers": (1, 2, 4)},
    pool=Pool(_columns, lambda means, *, powers: means[:, None] / 10, "powers"),
)
"""Its statistics are ten times the shares: only the scores are held to the range."""


def _never_undefined(maps: Tensor, masks: Tensor) -> Tensor:
    return share(maps, masks).nan_to_num()


def _of_the_batch(maps: Tensor, masks: Tensor) -> Tensor:
    return share(maps, masks) / max(len(maps), 1)


def _random(maps: Tensor, masks: Tensor) -> Tensor:
    return share(maps, masks) + 0 * torch.rand(1)


def _writes(maps: Tensor, masks: Tensor) -> Tensor:
    return share(maps.abs_(), masks)


def test_a_sound_one_passes() -> None:
    assert [f for f in check_metric(SOUND) if f.check != "clear errors"] == []
    assert [f for f in check_metric(POOLED) if f.check != "clear errors"] == []


@pytest.mark.parametrize(
    ("faulty", "check", "says"),
    [
        (replace(SOUND, title=""), "declaration", "no title"),
        (replace(SOUND, range=(0, 0.1)), "range", "leave the declared range"),
        (replace(SOUND, chance=None), "chance", "no chance level"),
        (replace(SOUND, parameters={"k": 3}), "declaration", "does not take"),
        (replace(SOUND, compute=_never_undefined), "undefined", "not NaN"),
        (replace(SOUND, compute=_of_the_batch), "batches", "batch size"),
        (replace(SOUND, compute=_random), "random", "random"),
        (replace(SOUND, compute=_writes), "inputs", "changed its input"),
        (replace(SOUND, compute=lambda maps, masks: share(maps, masks).mean()), "shape", "()"),
        (replace(SOUND, compute=lambda maps, masks: share(maps, masks).float()), "dtype", "float32"),
        (replace(SOUND, compute=lambda maps: maps), "raises", "TypeError"),
        (replace(POOLED, compute=lambda maps, masks, powers: share(maps, masks)), "shape", "not (6, 3)"),
        (replace(POOLED, chance=lambda masks, powers: _chances(masks)[:, 0]), "chance", "not (6, 3)"),
        (replace(POOLED, pool=Pool(lambda: 3, lambda means, powers: means[:, None])), "raises", "pool.columns raised"),
        (
            replace(POOLED, pool=Pool(_columns, lambda means, powers: means[:, None], "powers")),
            "range",
            "leave the declared range",
        ),
        (replace(POOLED, pool=Pool(_columns, lambda means, powers: means, "powers")), "pool", "'J'"),
    ],
)
def test_each_fault_is_found(faulty: Metric, check: str, says: str) -> None:
    found = [finding for finding in check_metric(faulty) if finding.check == check]
    assert any(says in finding.what for finding in found), check_metric(faulty)
    assert all(finding.remedy and "\n" not in str(finding) for finding in found)


def asking(compute: Callable[[Explained], Tensor]) -> Metric:
    declare = metric(
        "mine",
        category="faithfulness",
        direction="higher",
        range=(0, 1),
        reference="Nobody 2026",
        title="Mine",
    )
    return declare(compute)


def test_metrics_that_ask_the_network() -> None:
    def sound(explained: Explained) -> Tensor:
        return explained.own_scores()

    def leaky(explained: Explained) -> Tensor:
        next(explained.classifier.children()).register_forward_hook(lambda *_: None)
        return explained.own_scores()

    def trains(explained: Explained) -> Tensor:
        explained.classifier.train()
        return explained.own_scores()

    def joint(explained: Explained) -> Tensor:
        return explained.own_scores() / len(explained)

    assert check_metric(asking(sound)) == []
    assert {f.check for f in check_metric(asking(leaky))} == {"hooks"}
    assert {f.check for f in check_metric(asking(trains))} == {"state"}
    assert {f.check for f in check_metric(asking(joint))} == {"batches"}
