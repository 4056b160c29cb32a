"""DenseNet's body in fewer passes over memory: the same sums, and only where nothing else is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import densenet121 as torchvision_densenet121

from xaibench.classifiers import densenet
from xaibench.classifiers.densenet import run_densenet
from xaibench.classifiers.timm import densenet121 as classifier_of

BODIES: dict[str, Callable[[], Any]] = {
    "timm": lambda: timm.create_model("densenet121", pretrained=False).features,
    "torchvision": lambda: torchvision_densenet121(weights=None).features,
}


@pytest.fixture(autouse=True)
def every_size_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(densenet, "_ENOUGH", 0)


def trained(body: nn.Module) -> nn.Module:
    """Give the batch norms what training gives them and more: scales of both signs, 0, and next to 0."""
    generator = torch.Generator().manual_seed(0)

    def drawn(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data = drawn(norm.weight, -0.5, 1.5)
            norm.bias.data = drawn(norm.bias, -0.5, 0.5)
            norm.weight.data[:3], norm.bias.data[0], norm.bias.data[1] = torch.tensor([0.0, 0.0, 1e-38]), 0.3, -0.3
            norm.running_mean = drawn(norm.bias, -0.5, 0.5)
            norm.running_var = drawn(norm.bias, 0.5, 1.5)
    return body.eval()


@pytest.fixture
def body() -> nn.Module:
    return trained(BODIES["timm"]())


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def is_other_code(body: nn.Module, given: Tensor) -> bool:
    """Tell whether it runs by other code than the body's: by what it was all for, the copies put together."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run_densenet(body, given)
    return "aten::cat" not in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("cached", [0, 2**23])  # an image at a time, and all of them
@pytest.mark.parametrize("name", BODIES)
def test_exact_arithmetic_gives_the_bodys_own_features(name: str, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(densenet, "_CACHED", cached)
    body = trained(BODIES[name]()).double()
    with torch.no_grad():
        wanted, found = body(images().double()), run_densenet(body, images().double())
        assert is_other_code(body, images().double())
    assert wanted.abs().max() > 1
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)  # 121 layers of sums in another order


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_in_float32_it_differs_by_rounding(body: nn.Module, layout: torch.memory_format) -> None:
    given = images().contiguous(memory_format=layout)
    with torch.no_grad():
        exact = body.double()(given.double())
        body.float().to(memory_format=layout)
        found = run_densenet(body, given)
    assert found.dtype == torch.float32
    # A hundred roundings (1.2e-7 each): 121 layers, and where ReLU gives 0 two shifts of up to 1 cancel.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1.2e-5)


def test_weights_are_those_of_the_call(body: nn.Module) -> None:
    with torch.no_grad():
        before = run_densenet(body, images())
        body.get_submodule("denseblock2.denselayer3.norm1").weight.data.mul_(-2)  # which counts no version up
        after = run_densenet(body, images())
        torch.testing.assert_close(after, body(images()), rtol=1e-3, atol=1e-4)
    assert (after - before).abs().max() > 0.01


def hooked(body: nn.Module) -> None:
    body.get_submodule("denseblock1.denselayer1.conv1").register_forward_hook(lambda *_: None)


def another_forward(body: nn.Module) -> None:
    layer = body.get_submodule("transition1.norm")
    layer.forward = lambda x: torch.zeros_like(x)  # type: ignore[method-assign]


def another_activation(body: nn.Module) -> None:
    body.get_submodule("denseblock3.denselayer2.norm1").act = nn.ELU()


def another_class(body: nn.Module) -> None:
    class Squared(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    block = body.get_submodule("denseblock3.denselayer2")
    block.norm2 = Squared(128)
    body.eval()


def training(body: nn.Module) -> None:
    body.get_submodule("denseblock4").train()


@pytest.mark.parametrize("change", [hooked, another_forward, another_activation, another_class, training])
def test_a_body_that_was_changed_does_what_it_was_changed_to(body: nn.Module, change: Callable[[Any], None]) -> None:
    change(body)
    with torch.no_grad():
        torch.testing.assert_close(run_densenet(body, images()), body(images()))


def test_hooks_are_called(body: nn.Module) -> None:
    seen: list[Any] = []
    body.get_submodule("denseblock1.denselayer1.conv1").register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        run_densenet(body, images())
    assert seen == [1]
    with torch.no_grad(), nn.modules.module.register_module_forward_hook(lambda *_: seen.append(2)):
        run_densenet(body, images())
    assert seen.count(2) > 400


def test_gradients_flow_where_they_are_asked_for(body: nn.Module) -> None:
    given = images().requires_grad_()
    run_densenet(body, given).sum().backward()
    assert given.grad is not None
    assert given.grad.abs().max() > 0
    with torch.no_grad():
        assert is_other_code(body, images())
    assert not is_other_code(body, images())  # not detached, and autograd has no part in it


def test_in_bfloat16_it_rounds_no_more_than_the_body(body: nn.Module) -> None:
    with torch.no_grad():
        exact = body.double()(images().double())
        body.float()
        with torch.autocast("cpu", torch.bfloat16):
            own, found = body(images()), run_densenet(body, images())
            assert is_other_code(body, images())
    assert found.dtype == own.dtype
    errors = [(features.double() - exact).square().mean().sqrt() for features in (found, own)]
    assert errors[0] < 1.25 * errors[1]  # 5% more at most where it was tried on bodies of random weights
    assert errors[0] > 1e-4  # it did round


def test_training_and_float16_run_the_body_as_it_is(body: nn.Module) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert not is_other_code(body, images())
    with torch.no_grad():
        assert not is_other_code(body.train(), images())


def test_the_classifier_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = classifier_of(("a", "b"), 64, weights="random").optimized()
    given = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = classifier(given)
        assert is_other_code(classifier.model.features, given)
        monkeypatch.setattr(densenet, "_ENOUGH", 1e9)
        assert not is_other_code(classifier.model.features, given)
        torch.testing.assert_close(found, classifier(given), rtol=1e-4, atol=1e-5)
