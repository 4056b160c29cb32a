"""Classifiers from outside: a user's own network, and programs, with their weights as they are."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rich.console import Console
from torch import nn

from tests.classifiers.networks import Named, Net, Twice
from tests.tiny import tiny_benchmark
from xaibench.classifiers import create
from xaibench.classifiers.base import Classifier, hash_tensors
from xaibench.classifiers.module import ModuleClassifier
from xaibench.classifiers.timm import TimmClassifier
from xaibench.doctor import diagnose
from xaibench.errors import NotApplicableError, UsageError, WeightsError
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.restore import reopen
from xaibench.explainers import create as create_explainer
from xaibench.reporting.html import write_report
from xaibench.reporting.tables.run import print_run
from xaibench.results.run import Run
from xaibench.testing import check_classifier

ONNX = "pip install -e '.[test-onnx]'"
CLASSES = ["No Finding", "Cardiomegaly", "Pneumothorax", "Effusion"]
BENCHMARK = tiny_benchmark()
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def wrap(module: nn.Module, **options: Any) -> ModuleClassifier:
    return ModuleClassifier(options.pop("classes", CLASSES), 64, module=module, **options)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", [Net, Twice, Named])
def test_body_and_head_are_the_network(network: type[nn.Module], images: torch.Tensor) -> None:
    module = network()
    classifier = wrap(module)
    with torch.no_grad():
        raw = module((images - MEAN) / STD)
        raw = getattr(raw, "logits", raw)
        prediction = classifier.predict(images)
        torch.testing.assert_close(prediction.logits, raw)
        torch.testing.assert_close(classifier(images), raw)
        torch.testing.assert_close(classifier.features(images), prediction.features)
        torch.testing.assert_close(classifier.head(prediction.features, images), raw)
        other = classifier.head(torch.zeros_like(prediction.features), images)
    assert classifier.layer_name == "second"
    assert not torch.allclose(other, raw)
    assert classifier.weights.sha256 == hash_tensors(module.state_dict().items())
    assert not any("forward" in vars(layer) or layer._forward_hooks for layer in classifier.modules())


def test_the_user_s_module_is_left_alone(images: torch.Tensor) -> None:
    module = Net().train()
    classifier = wrap(module).optimized()
    classifier.predict(images)
    assert module.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert module.first.weight.is_contiguous()


def test_a_second_call_of_a_layer_is_the_one_explained(images: torch.Tensor) -> None:
    module = Twice()
    with torch.no_grad():
        first = module.second(module.first((images - MEAN) / STD))
        second = module.second(first.relu())
        torch.testing.assert_close(wrap(module).features(images), second)
        torch.testing.assert_close(
            wrap(module, layer="first").predict(images).features, module.first((images - MEAN) / STD)
        )
        torch.testing.assert_close(
            wrap(module, layer=module.first).features(images), module.first((images - MEAN) / STD)
        )


def test_hirescam_is_the_library_s_on_the_same_layer(images: torch.Tensor) -> None:
    class Plain(Net):  # not in place, which the library can't take
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(images).relu()).relu().mean(dim=(2, 3)))  # type: ignore[no-any-return]

    module = Plain()
    targets = torch.tensor([0, 1, 2, 3, 1])
    with HiResCAM(model=module, target_layers=[module.second]) as stock:
        outputs = stock.activations_and_grads((images - MEAN) / STD)
        outputs.gather(1, targets[:, None]).sum().backward()
        kept = stock.activations_and_grads
        wanted = stock.get_cam_image(
            images,
            module.second,
            [ClassifierOutputTarget(int(target)) for target in targets],
            kept.activations[0].detach().numpy(),
            kept.gradients[0].detach().numpy(),
            False,
        )
    up = nn.functional.interpolate(torch.from_numpy(wanted)[:, None], 64, mode="bilinear", align_corners=False)[:, 0]
    classifier = wrap(Net())
    explainer: Any = create_explainer("hirescam")
    explainer.check(classifier)
    found = explainer.explain(classifier, classifier.predict(images), targets)
    torch.testing.assert_close(found, up.relu() if explainer.rectified else up, atol=1e-5, rtol=1e-5)


def test_pooled_linear_heads_are_found_by_trial(images: torch.Tensor) -> None:
    import torchvision

    resnet = wrap(torchvision.models.resnet18(num_classes=14), outputs=[3, 1, 13, 0])
    assert (resnet.layer_name, resnet.head_is_pooled_linear) == ("layer4", True)
    features = resnet.features(images)
    closed = features.mean((2, 3)) @ resnet.class_weights().T + resnet.module.fc.bias[[3, 1, 13, 0]]
    torch.testing.assert_close(closed, resnet(images))
    vgg = wrap(torchvision.models.vgg11(num_classes=4))
    assert (vgg.layer_name, vgg.head_is_pooled_linear) == ("features", False)
    with pytest.raises(UsageError, match="more than average pooling"):
        vgg.class_weights()


def test_a_vision_transformer_takes_its_tokens(images: torch.Tensor) -> None:
    inner = TimmClassifier(CLASSES, 64, model="test_vit", weights="random").eval()
    classifier = wrap(
        inner.model, normalize=[inner.normalize.mean.flatten().tolist(), inner.normalize.std.flatten().tolist()]
    )
    with torch.no_grad():
        torch.testing.assert_close(classifier.predict(images).features, inner.predict(images).features)
        torch.testing.assert_close(classifier(images), inner(images))
    create_explainer("attention_rollout").check(classifier)


def test_normalization_channels_and_size(images: torch.Tensor) -> None:
    grey = Net(channels=1)
    classifier = wrap(grey, channels=1, normalize=[[0], [1 / 255]], resize=96)
    larger = nn.functional.interpolate(images, 96, mode="bilinear", align_corners=False)
    with torch.no_grad():
        wanted = grey(larger.mean(1, keepdim=True) * 255)
        torch.testing.assert_close(classifier(images), wanted, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(wrap(Net(), normalize="none")(images), Net()(images))


@pytest.mark.parametrize(
    ("module", "options", "reason"),
    [
        (Net(14), {}, "Net has 14 outputs for the 4 classes No Finding, .*outputs = "),
        (Net(14), {"outputs": [1, 2]}, r"outputs = \[1, 2\]; it is the index"),
        (Net(), {"outputs": [0, 1, 2, 9]}, "but it has 4 outputs"),
        (Net(), {"layer": "last"}, r"no module 'last' with an output \(B, C, h, w\); it has first, second"),
        (Net(), {"layer": nn.Identity()}, "this Identity is no module of the Net"),
        (Net(), {"normalize": "imagnet"}, "'imagenet', 'none', or a mean"),
        (Net(), {"normalize": [[0, 0, 0], [1, 1, 0]]}, "above 0 for each of 3 channels"),
        (Net(), {"channels": 2}, "channels = 2"),
        (Net(), {"resize": 1}, "resize = 1"),
        (Net(channels=1), {}, "Net takes no images of 3 x 64 x 64: .* See its options channels and resize"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12288, 4)), {}, "there is nothing to explain.*torchscript:FILE"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), {}, r"gives shape \(1, 4, 64, 64\), not logits"),
    ],
)
def test_what_does_not_fit_says_so(module: nn.Module, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        wrap(module, **options)
    assert "\n" not in str(caught.value)


def test_by_import_path(tmp_path: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (Path(__file__).parent / "networks.py").read_text()
    (tmp_path / "nets_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("nets_of_mine:make", "nets_of_mine:Net", "nets_of_mine:MADE", f"{tmp_path}/nets_of_mine.py:make"):
        classifier = create(f"module:{path}", classes=CLASSES, input_size=64)
        assert classifier.weights.source == f"module:{path}"
        with torch.no_grad():
            torch.testing.assert_close(classifier(images), wrap(Net())(images))
    for path, reason in (
        ("nets_of_mine", "write module:PACKAGE.MODULE:ATTRIBUTE"),
        ("nets_of_mine:NOTHING", "is a int; it is an nn.Module"),
        ("nets_of_mine:absent", "AttributeError: .*absent"),
        ("nets_of_mine:fails", "RuntimeError: no weights"),
        ("no_such_module_here:make", "ModuleNotFoundError"),
        (f"{tmp_path}/absent.py:make", "no file"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            create(f"module:{path}", classes=CLASSES, input_size=64)
        assert "\n" not in str(caught.value)


def onnx_file(path: Path, batch: int | str) -> None:
    """Write `Net` as ONNX by hand."""
    onnx = pytest.importorskip("onnx", reason=ONNX)
    from onnx import TensorProto, helper, numpy_helper

    net = Net()
    weights = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in net.state_dict().items()]
    weights.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "first.weight", "first.bias"], ["a"], strides=[4, 4], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "second.weight", "second.bias"], ["c"], strides=[2, 2], pads=[1] * 4),
        node("Relu", ["c"], ["d"]),
        node("ReduceMean", ["d", "axes"], ["e"], keepdims=0),
        node("Gemm", ["e", "last.weight", "last.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 4])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def torchscript_file(path: Path, batch: int | str) -> None:
    torch.jit.save(torch.jit.trace(Net(), torch.zeros(2, 3, 64, 64)), str(path))


def exported_file(path: Path, batch: int | str) -> None:
    dynamic = None if isinstance(batch, int) else {"images": {0: torch.export.Dim("batch")}}
    example = torch.zeros(batch if isinstance(batch, int) else 2, 3, 64, 64)
    torch.export.save(torch.export.export(Net().eval(), (example,), dynamic_shapes=dynamic), str(path))


PROGRAMS = [
    ("torchscript", torchscript_file, "any"),
    ("exported", exported_file, "any"),
    ("exported", exported_file, 2),
    pytest.param("onnx", onnx_file, "any", marks=pytest.mark.onnx),
    pytest.param("onnx", onnx_file, 2, marks=pytest.mark.onnx),
]


@pytest.mark.parametrize(("kind", "save", "batch"), PROGRAMS, ids=lambda value: str(getattr(value, "__name__", value)))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs_give_the_network_s_logits(
    kind: str, save: Callable[[Path, int | str], None], batch: int | str, images: torch.Tensor, tmp_path: Path
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason=ONNX)
    path = tmp_path / "net.pt2"
    save(path, batch)
    classifier = create(f"{kind}:{path}", classes=CLASSES, input_size=64)
    with torch.no_grad():
        wanted = wrap(Net())(images)
        prediction = classifier.optimized().predict(images)
    torch.testing.assert_close(prediction.logits, wanted, atol=1e-5, rtol=1e-4)
    assert classifier.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert classifier.weights.source == f"file:{path}"
    assert classifier.comes_trained
    targets = torch.tensor([0, 1, 2, 3, 1])
    occlusion = create_explainer("occlusion", window=0.5)
    occlusion.check(classifier)
    plain = wrap(Net())
    found = occlusion.explain(classifier, prediction, targets)
    torch.testing.assert_close(found, occlusion.explain(plain, plain.predict(images), targets), atol=1e-4, rtol=1e-4)
    findings = diagnose(classifier, {"occlusion": occlusion}, images)
    assert [finding for finding in findings if finding.severity != "note"] == []
    assert any("there is no target layer" in finding.what for finding in findings)
    for name in ("gradcam", "eigencam", "scorecam", "ablationcam"):
        with pytest.raises(NotApplicableError, match=f"{name} needs the features of a layer.*use rise or occlusion"):
            create_explainer(name).check(classifier)
    saliency = create_explainer("saliency")
    if kind == "onnx":
        with pytest.raises(NotApplicableError, match="saliency needs gradients, and Onnx gives none: use rise or occl"):
            saliency.check(classifier)
    elif batch == "any":
        saliency.check(classifier)
        found = saliency.explain(classifier, prediction, targets)
        torch.testing.assert_close(found, saliency.explain(plain, plain.predict(images), targets), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["torchscript", "exported", pytest.param("onnx", marks=pytest.mark.onnx)])
def test_programs_pass_the_kit(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason=ONNX)
    save = {"torchscript": torchscript_file, "exported": exported_file, "onnx": onnx_file}[kind]
    save(tmp_path / "net.pt2", "any")
    found = check_classifier(f"{kind}:{tmp_path}/net.pt2")
    # ONNX has no gradient, which the kit says and which is no fault
    assert [finding.check for finding in found] == (["gradient"] if kind == "onnx" else [])
    assert all(finding.severity == "warning" for finding in found)


@pytest.mark.parametrize("kind", ["torchscript", "exported", pytest.param("onnx", marks=pytest.mark.onnx)])
def test_programs_that_are_none(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason=ONNX)
    with pytest.raises(WeightsError, match=f"{kind}:.*no file"):
        create(f"{kind}:{tmp_path}/absent", classes=CLASSES, input_size=64)
    (tmp_path / "junk").write_bytes(b"junk" * 10)
    with pytest.raises(WeightsError, match="is no such program") as caught:
        create(f"{kind}:{tmp_path}/junk", classes=CLASSES, input_size=64)
    assert "\n" not in str(caught.value)


@pytest.mark.onnx
def test_a_program_of_another_size_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=ONNX)
    onnx_file(tmp_path / "net.onnx", 1)
    with pytest.raises(UsageError, match=r"takes no images of 3 x 32 x 32: .*options channels and resize"):
        create(f"onnx:{tmp_path}/net.onnx", classes=CLASSES, input_size=32)
    classifier = create(f"onnx:{tmp_path}/net.onnx", classes=CLASSES, input_size=32, resize=64)
    assert classifier(torch.zeros(3, 3, 32, 32)).shape == (3, 4)


def test_onnx_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"onnx:FILE runs by onnxruntime: pip install 'xaibench\[onnx\]'"):
        create(f"onnx:{tmp_path}/net.onnx", classes=["a", "b"], input_size=64)


def test_evaluate_takes_a_module_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    module = Net()
    run = evaluate(module, ["gradcam"], BENCHMARK, out=tmp_path / "runs", options={"normalize": "none"}, device="cpu")
    assert run.classifier == "Net"
    assert run.record["weights"]["sha256"] == hash_tensors(module.state_dict().items())
    assert run.record["weights"]["source"] == "external, not trained here: module:Net"
    assert (run.external, run.record["recipe"], run.record["weights"]["recipe_hash"]) == (True, {}, "")
    assert run.record["weights"]["history"] == []
    assert run.record["classifier_options"] == {"normalize": "none"}
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    other = evaluate(Net(), ["gradcam"], BENCHMARK, device="cpu")
    assert [s.value for s in other.scores] != [s.value for s in run.scores]  # another normalisation
    with pytest.raises(UsageError, match=r"Net has no option 'normalise'. Did you mean 'normalize'"):
        evaluate(module, ["gradcam"], BENCHMARK, options={"normalise": "none"})
    with pytest.raises(
        UsageError, match="Net comes with its weights and is not trained: leave out the recipe's epochs"
    ):
        evaluate(module, ["gradcam"], BENCHMARK, recipe={"epochs": 1})


def test_external_weights_are_named_and_carry_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the record, in the terminal and on the page: its hash, and no learning rate that nobody used."""
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    options = {"normalize": "none"}
    run = evaluate(Net(), ["gradcam"], BENCHMARK, out=tmp_path / "runs", options=options, device="cpu")
    digest = run.record["weights"]["sha256"]
    assert run.directory is not None
    loaded = Run.load(run.directory)
    assert loaded.external
    terminal = StringIO()
    print_run(loaded, Console(file=terminal, width=140))
    page = tmp_path / "report.html"
    write_report([loaded], page, images=0, device="cpu")
    for text in (terminal.getvalue(), page.read_text()):
        assert "external, not trained here: module:Net" in text
        assert digest[:12] in text
        assert "learning_rate" not in text
    trained = evaluate("gcm", ["cwm"], BENCHMARK, recipe={"epochs": 1}, out=tmp_path / "runs", device="cpu")
    assert not trained.external
    assert trained.record["recipe"]["epochs"] == 1
    write_report([trained], page, images=0, device="cpu")
    assert "learning_rate" in page.read_text()


def test_runs_of_earlier_versions_are_known_as_external() -> None:
    old = {"weights": {"source": "as they came: module:Net", "sha256": "a"}, "recipe": {"learning_rate": 1e-4}}
    run = Run(BENCHMARK, "Net", ("gradcam",), (), (), old)
    assert run.external
    assert not Run(BENCHMARK, "gcm", ("cwm",), (), (), {"weights": {"source": "recipe 0123, on x"}}).external


def test_evaluate_takes_a_classifier_of_ours_as_it_is() -> None:
    made = TimmClassifier(BENCHMARK.classes, 64, model="test_resnet", weights="random")
    run = evaluate(made, ["gradcam"], BENCHMARK, device="cpu")
    assert run.record["weights"]["sha256"] == hash_tensors(made.state_dict().items())
    assert made.training
    assert not made.comes_trained
    small = TimmClassifier(BENCHMARK.classes, 96, model="test_resnet", weights="random")
    with pytest.raises(UsageError, match="TimmClassifier has input_size = 96, benchmark 'tiny' 64"):
        evaluate(small, ["gradcam"], BENCHMARK)
    with pytest.raises(UsageError, match="is made already: leave out the option resize"):
        evaluate(made, ["gradcam"], BENCHMARK, options={"resize": 64})


def test_a_run_by_import_path_opens_again(tmp_path: Path) -> None:
    path = Path(__file__).parent / "networks.py"
    run = evaluate(f"module:{path}:make", ["gradcam"], BENCHMARK, out=tmp_path, device="cpu")
    opened = reopen(run, device="cpu")
    assert isinstance(opened.classifier, Classifier)
    assert opened.classifier.weights.sha256 == run.record["weights"]["sha256"]
    assert run.directory is not None
    assert run.directory.parent == tmp_path
