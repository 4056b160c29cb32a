"""Programs from elsewhere: what would run while they are loaded is refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from xaibench.classifiers.programs import Exported
from xaibench.errors import WeightsError


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(images.mean((2, 3)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(1, 3, 32, 32),)), path)
    return path


def added(source: Path, path: Path, name: str, content: bytes) -> Path:
    """Write a copy with one file more, beside those that are there."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, old.read(entry))
        new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", content)
    return path


def load(path: Path) -> Exported:
    return Exported(["a", "b"], 32, file=str(path))


def test_pickles_in_exported_programs_are_not_executed(exported: Path, tmp_path: Path) -> None:
    assert load(exported).classes == ("a", "b")
    proof = tmp_path / "proof"
    kept = io.BytesIO()
    torch.save(Evil(proof), kept)
    path = added(exported, tmp_path / "evil.pt2", "data/weights/model.pt", kept.getvalue())
    with pytest.raises(WeightsError, match=r"evil\.pt2 is no such program"):
        load(path)
    assert not proof.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch.export.load(path)
    assert proof.exists()  # torch itself executes it


def test_compiled_code_in_exported_programs_is_not_loaded(exported: Path, tmp_path: Path) -> None:
    path = added(exported, tmp_path / "lib.pt2", "data/aotinductor/model/x.wrapper.so", b"\x7fELF")
    with pytest.raises(WeightsError, match=r"brings compiled code \(.*x\.wrapper\.so\)"):
        load(path)


@pytest.mark.parametrize("kept", [pickle.dumps, lambda value: pickle.dumps(value, protocol=0)])
def test_pickles_as_weights_are_not_executed(kept: Any, tmp_path: Path) -> None:
    from xaibench.classifiers.weights import read_state_dict

    (tmp_path / "a.pth").write_bytes(kept({"a": Evil(tmp_path / "proof")}))
    torch.save({"a": Evil(tmp_path / "proof")}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(WeightsError, match="no plain state dict"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "proof").exists()
