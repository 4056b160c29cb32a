"""B-cos networks: the kit, the layer worked by hand, and contributions that add up to the logit."""

from __future__ import annotations

import pytest
import torch
from xaibench_bcos import BcosConv2d, BcosMap, BcosNet, Uncentred

from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers import create
from xaibench.testing import check_explainer, small_prediction
from xaibench.testing.small import Small

CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")


@pytest.fixture(scope="module")
def classifier() -> BcosNet:
    made = BcosNet(CLASSES, 64, widths=(8, 12))
    made.train()
    with torch.no_grad():
        for _ in range(20):  # so that the running squares are those of images
            made(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return made.eval()


def test_conforms(conforms) -> None:
    conforms("classifiers", "bcos", options={"widths": (8, 12)})


def test_the_map_conforms(classifier: BcosNet) -> None:
    assert check_explainer("bcos", classifier) == []


def test_contributions_add_up_to_the_logit(classifier: BcosNet) -> None:
    prediction = small_prediction(classifier, 4)
    for target in range(4):
        maps = BcosMap().explain(classifier, prediction, torch.full((4,), target))
        wanted = prediction.logits[:, target].double()
        torch.testing.assert_close(maps.double().sum((1, 2)), wanted, atol=1e-5, rtol=1e-4)


def test_the_map_is_the_dynamic_linear_one(classifier: BcosNet) -> None:
    """The plain gradient adds up as well (the network is homogeneous), with other contributions."""
    prediction = small_prediction(classifier, 4)
    maps = BcosMap().explain(classifier, prediction, torch.ones(4, dtype=torch.long))
    encoded = classifier.encode(prediction.images).requires_grad_(True)
    score = classifier.head(classifier.body(encoded), prediction.images)[:, 1].sum()
    (found,) = torch.autograd.grad(score, encoded)
    plain = (found * encoded).sum(1).detach()
    assert float((plain - maps).abs().max()) > 0.1 * float(maps.abs().max())


def test_contributions_of_a_layer_by_hand() -> None:
    layer = BcosConv2d(2, 1, 1)
    layer.detached = True
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([3.0, 4.0])[None, :, None, None])
    x = torch.tensor([5.0, 1.0])[None, :, None, None].requires_grad_(True)
    layer(x).sum().backward()
    cosine = 3.8 / 26**0.5
    assert x.grad is not None
    assert (x.grad * x.detach()).flatten().tolist() == pytest.approx([cosine * 3.0, cosine * 0.8], rel=1e-4)


def test_a_layer_by_hand() -> None:
    layer = BcosConv2d(2, 1, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([3.0, 4.0])[None, :, None, None])  # unit: 0.6, 0.8
        aligned, across, between = (
            layer(torch.tensor(x)[None, :, None, None]).item() for x in ([6.0, 8.0], [-4.0, 3.0], [5.0, 0.0])
        )
    assert aligned == pytest.approx(10)  # cosine 1: the length
    assert across == pytest.approx(0, abs=1e-4)
    assert between == pytest.approx(3 * 0.6, rel=1e-4)  # 5 * 0.6, times the cosine 0.6


def test_b_of_1_is_linear() -> None:
    net = BcosNet(CLASSES, 64, widths=(8, 12), b=1).eval()
    encoded = torch.rand(2, 6, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        one, both = net.body(encoded[:1]), net.body(encoded.sum(0, keepdim=True))
        other = net.body(encoded[1:])
    torch.testing.assert_close(one + other, both, atol=1e-5, rtol=1e-4)


def test_uncentred_divides_by_the_root_mean_square() -> None:
    norm = Uncentred(1, momentum=1.0)
    found = norm(torch.tensor([3.0, -4.0]).reshape(1, 1, 1, 2))
    assert found.flatten().tolist() == pytest.approx([3 / 12.5**0.5, -4 / 12.5**0.5], rel=1e-5)
    assert norm.eval()(torch.tensor([[[[12.5**0.5]]]])).item() == pytest.approx(1, rel=1e-5)


def test_it_learns() -> None:
    """Bright left half or bright right half: a few steps tell them apart, and the map points at the bright half."""
    net = BcosNet(("left", "right"), 32, widths=(8, 16)).train()
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(16) % 2
    images = 0.3 * torch.rand(16, 1, 32, 32, generator=draw).repeat(1, 3, 1, 1)
    images[labels == 0, :, 8:24, :8] += 0.6
    images[labels == 1, :, 8:24, 24:] += 0.6
    images[labels == 1, :, 20:24, 24:] -= 0.5  # mirrored it would be the same image to a mean
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_options_and_other_networks_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"b = 0\.5"):
        BcosNet(CLASSES, 64, b=0.5)
    with pytest.raises(NotApplicableError, match="use input_x_gradient"):
        create("bcos").check(Small())
