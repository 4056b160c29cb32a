"""The network that is scored is the network that was given."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from timm.models.densenet import DenseNet
from torch import Tensor, nn

from tests.cases.base import Pair, Refused, Says, case
from tests.cases.data import findings
from tests.classifiers import odd_networks as odd
from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.classifiers.base import Classifier, seeded
from xaibench.classifiers.module import ModuleClassifier
from xaibench.classifiers.timm import TimmClassifier
from xaibench.cli import main
from xaibench.datasets.loader import batches
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.setup import load_splits
from xaibench.explainers.base import Explainer, upsample
from xaibench.results.run import Run

SECTION = "The network that is scored is the network that was given"
CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
TWO = ["No Finding", "Effusion"]
SIZE = 64
USER = "tests/classifiers/test_user_networks.py"
EFFECTS = "tests/evaluation/test_side_effects.py"
CALLED = "the module itself, called by torch"
SKLEARN = "scikit-learn's roc_auc_score"


def wrap(module: nn.Module, classes: Sequence[str] = CLASSES, **options: Any) -> ModuleClassifier:
    return ModuleClassifier(classes, SIZE, module=module.eval(), **{"normalize": "none", **options})


def noise(count: int = 5, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def benchmark(*metrics: str, classes: Sequence[str] = CLASSES, **changes: Any) -> Benchmark:
    localization = {"localization": {"baselines": []}}
    return tiny_benchmark(metrics=[{"name": name} for name in metrics], classes=classes, **localization, **changes)


def test_set(protocol: Benchmark) -> tuple[Tensor, npt.NDArray[np.float32]]:
    """Return the phantom's test images and their labels."""
    test = load_splits(protocol, None).test
    return torch.cat([batch.images for batch in batches(test, 32)]).contiguous(), test.labels


def run(network: Any, explainers: Sequence[str], protocol: Benchmark, **options: Any) -> Run:
    given = {"normalize": "none", **options.pop("options", {})}
    return evaluate(network, explainers, protocol, options=given, device="cpu", **options)


def value(found: Run, metric: str, explainer: str | None = None, class_name: str = "macro") -> float:
    (score,) = found.select(metric=metric, class_name=class_name, **({"explainer": explainer} if explainer else {}))
    return math.nan if score.value is None else score.value


def mean_of_logits(classifier: Classifier, network: nn.Module, dtype: torch.dtype = torch.float32) -> Pair:
    """Return the mean |logit| of five images of noise, and the module's own."""
    images = noise()
    with torch.no_grad():
        wanted = network(images.to(dtype)).float().abs().mean().item()
        return Pair(classifier.predict(images).logits.abs().mean().item(), wanted)


def fitted(network: Any, features: Callable[[Tensor], Tensor], last: nn.Linear, protocol: Benchmark) -> Any:
    """Set the last layer by least squares, so that the test images are told apart."""
    images, labels = test_set(protocol)
    with torch.no_grad():
        pooled = features(images)
        inputs = torch.cat([pooled, torch.ones(len(pooled), 1)], 1)
        solution = torch.linalg.lstsq(inputs, torch.from_numpy(labels)).solution
        last.weight.copy_(solution[:-1].T)
        last.bias.copy_(solution[-1])
    return network.eval()


def auc_by_scikit_learn(network: nn.Module, protocol: Benchmark) -> float:
    images, labels = test_set(protocol)
    with torch.no_grad():
        logits = network(images)
    return float(roc_auc_score(labels[:, 1], logits[:, 1] - logits[:, 0]))


@case(
    SECTION,
    "a subclass of timm's VisionTransformer with a forward of its own that averages the patches, trained: ROC-AUC",
    before="0.520408",
    source=SKLEARN,
    test=f"{USER}::test_its_scores_are_those_of_its_own_forward",
)
def own_forward_auc(folder: Path) -> Pair:
    protocol = benchmark("roc_auc", classes=TWO)
    network = odd.tiny_vit(odd.MeanOfPatches, num_classes=2)
    fitted(network, lambda images: network.forward_features(images)[:, 1:].mean(1), network.head, protocol)
    right = auc_by_scikit_learn(network, protocol)
    return Pair(value(run(network, ["gradcam"], protocol), "roc_auc"), right)


@case(
    SECTION,
    "the same, random weights: mean |logit|",
    before="0.822036",
    source=CALLED,
    test=f"{USER}::test_a_vision_transformer_with_a_forward_of_its_own_is_run_as_it_is",
)
def own_forward_logits(folder: Path) -> Pair:
    network = odd.tiny_vit(odd.MeanOfPatches)
    return mean_of_logits(wrap(network), network)


class LargestOfMaps(DenseNet):
    """timm's DenseNet with a forward of its own: each map's largest value."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.forward_features(x).amax((2, 3)))  # type: ignore[no-any-return]


def largest_of_maps(pretrained: bool = False, num_classes: int = 4, **_: Any) -> LargestOfMaps:
    return LargestOfMaps(growth_rate=8, block_config=(2, 2), num_classes=num_classes)


@case(
    SECTION,
    "a subclass of timm's DenseNet, registered with timm, whose forward takes each map's largest value, by name "
    "(timm:MODEL): mean |logit|",
    before="1.88485",
    source=CALLED,
    test="tests/classifiers/test_timm.py::test_a_registered_model_with_a_forward_of_its_own_is_run_as_it_is",
)
def registered_with_timm(folder: Path) -> Pair:
    timm.models.register_model(largest_of_maps)
    classifier = TimmClassifier(CLASSES, SIZE, model="largest_of_maps", weights="random").eval()
    images = noise()
    with torch.no_grad():
        wanted = classifier.model(classifier.normalize(images)).abs().mean().item()
        return Pair(classifier.predict(images).logits.abs().mean().item(), wanted)


class OtherParts(Classifier):
    """A plugin's classifier whose forward is another network than its body and head."""

    comes_trained = True

    def __init__(self) -> None:
        super().__init__(CLASSES, SIZE)
        self.plain = odd.Plain()

    def features(self, images: Tensor) -> Tensor:
        return self.plain.body(images)

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.plain.last(features.mean((2, 3)))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.plain.last(self.plain.body(images).amax((2, 3)))  # type: ignore[no-any-return]


@case(
    SECTION,
    "a plugin's classifier whose forward is something else than head(features(x)): ROC-AUC",
    before="0.537415",
    right=Refused("head.* gives other logits than the network itself"),
    source="what is explained would not be what is scored",
    test=f"{USER}::test_a_classifier_of_a_plugin_is_looked_at_too",
)
def plugin_parts(folder: Path) -> float:
    return value(evaluate(OtherParts(), ["gradcam"], benchmark("roc_auc"), device="cpu"), "roc_auc")


@case(
    SECTION,
    "a network with x.view(len(x), -1): mean |logit|, through evaluate",
    before="RuntimeError: view size is not compatible with input tensor's size and stride (at least one ...",
    source=CALLED,
    test=f"{USER}::test_a_network_that_views_its_maps_runs_in_contiguous_memory",
)
def viewed(folder: Path) -> Pair:
    network, protocol = odd.Viewed().eval(), benchmark("roc_auc")
    images, _ = test_set(protocol)
    with torch.no_grad():
        wanted = network(images).abs().mean().item()
    found = run(network, ["gradcam"], protocol, out=folder).predictions()
    return Pair(float(found[[f"logit:{name}" for name in CLASSES]].abs().to_numpy().mean()), wanted)


@case(
    SECTION,
    "the same under metrics that run it again, or with random weights (mprt, max_sensitivity): given up",
    before="RuntimeError: view size is not compatible with input tensor's size and stride (at least one ...",
    right="none",
    source="its forward takes any images (B, 3, 64, 64)",
    test=f"{USER}::test_it_runs_through_with_metrics_that_need_the_network",
)
def viewed_again(folder: Path) -> str:
    protocol = tiny_benchmark(
        metrics=[{"name": "mprt"}, {"name": "max_sensitivity", "parameters": {"samples": 2}}],
        localization={"baselines": []},
    )
    found = run(odd.Viewed(), ["saliency"], protocol)
    lost = {**found.record["failed"], **{k: next(iter(v.values())) for k, v in found.record["given_up"].items()}}
    return "; ".join(f"{name}: {why}" for name, why in lost.items()) or "none"


@case(
    SECTION,
    'one logit z, two classes, negative = "No Finding": mean probability of the other class',
    before="TypeError: ModuleClassifier.__init__() got an unexpected keyword argument 'negative'",
    source="torch.sigmoid(z)",
    test=f"{USER}::test_one_logit_of_two_classes",
)
def one_logit(folder: Path) -> Pair:
    network, images = odd.OneLogit().eval(), noise()
    with torch.no_grad():
        wanted = torch.sigmoid(network(images)).mean().item()
        classifier = wrap(network, TWO, negative="No Finding")
        return Pair(classifier.predict(images).logits.softmax(1)[:, 1].mean().item(), wanted)


@case(
    SECTION,
    "one logit, two classes, nothing said",
    before="refused: OneLogit has 1 outputs for the 2 classes No Finding, Effusion: say which are theirs ...",
    right=Refused("one output for the classes No Finding, Effusion: say which .*negative = "),
    source="either class may be the negative one",
    test=f"{USER}::test_one_logit_says_what_it_needs",
)
def one_logit_nothing_said(folder: Path) -> str:
    return f"{tuple(wrap(odd.OneLogit(), TWO)(noise()).shape)} logits"


@case(
    SECTION,
    "one logit, one class, multilabel: ROC-AUC",
    before="refused: Tuple should have at least 2 items after validation, not 1",
    source=SKLEARN,
    test=f"{USER}::test_one_logit_of_one_class",
)
def one_logit_one_class(folder: Path) -> Pair:
    protocol = findings(folder, ["Mass"], "roc_auc")
    test = load_splits(protocol, folder).test
    images = torch.cat([batch.images for batch in batches(test, 32)]).contiguous()
    network = odd.OneLogit().eval()
    with torch.no_grad():
        right = float(roc_auc_score(test.labels[:, 0], network(images)[:, 0]))
    return Pair(value(run(network, ["gradcam"], protocol, data_root=folder), "roc_auc", class_name="Mass"), right)


@case(
    SECTION,
    "outputs = [1, 1] for two classes: logits",
    before="0.182138, 0.182138",
    right=Refused(r"outputs = \[1, 1\] names"),
    source="one column can't be two classes",
    test=f"{USER}::test_one_column_is_not_two_classes",
)
def one_column_twice(folder: Path) -> list[float]:
    return wrap(odd.Plain(), TWO, outputs=[1, 1])(noise(1))[0].tolist()  # type: ignore[no-any-return]


@case(
    SECTION,
    "logits in an object, a dict (two forms), a tuple (two forms), or with axes of length 1: forms that give the "
    "module's logits",
    before="1",
    right=len(odd.ANSWERS),
    source=CALLED,
    test=f"{USER}::test_whatever_a_network_gives_its_logits_are_found",
)
def forms_of_answers(folder: Path) -> int:
    right = 0
    with torch.no_grad():
        wanted = odd.Plain()(noise())
        for how in odd.ANSWERS.values():
            with contextlib.suppress(Exception):
                right += torch.allclose(wrap(odd.Gives(how)).predict(noise()).logits, wanted, atol=1e-5)
    return right


@case(
    SECTION,
    "a dict of features alone",
    before="refused: Gives gives a dict, not logits (B, K): wrap it in a module that returns them",
    right=Refused("gives a dict .* not logits"),
    source="there are no logits in it",
    test=f"{USER}::test_what_holds_no_logits_says_so",
)
def no_logits(folder: Path) -> str:
    return str(wrap(odd.Gives(lambda logits, features: {"features": features}))(noise(1)))


@case(
    SECTION,
    "two tensors that both may be the logits",
    before="refused: Gives gives a tuple, not logits (B, K): wrap it in a module that returns them",
    right=Refused("several may be the logits: wrap it"),
    source="nothing says which",
    test=f"{USER}::test_what_holds_no_logits_says_so",
)
def two_logits(folder: Path) -> str:
    return f"{wrap(odd.Gives(lambda logits, features: (logits, logits + 1)))(noise(1)).shape} logits"


@case(
    SECTION,
    "double precision: mean |logit|",
    before="refused: Plain takes no images of 3 x 64 x 64: Input type (float) and bias type (double) should ...",
    source=CALLED,
    test=f"{USER}::test_other_precisions",
)
def double(folder: Path) -> Pair:
    network = odd.Plain().double()
    return mean_of_logits(wrap(network), network, torch.float64)


@case(
    SECTION,
    "half precision (bfloat16): mean |logit|",
    before="refused: Plain takes no images of 3 x 64 x 64: Input type (float) and bias type (c10::BFloat16) ...",
    source=f"{CALLED}, to 0.02",
    test=f"{USER}::test_other_precisions",
    tolerance=0.02,
)
def half(folder: Path) -> Pair:
    network = odd.Plain().bfloat16()
    return mean_of_logits(wrap(network), network, torch.bfloat16)


@case(
    SECTION,
    "an attribute that copy.deepcopy refuses (a tensor with its graph): mean |logit|",
    before="RuntimeError: Only Tensors created explicitly by the user (graph leaves) support the deepcopy ...",
    source=CALLED,
    test=f"{USER}::test_what_deepcopy_refuses_is_copied",
)
def not_copied(folder: Path) -> Pair:
    network = odd.Prototype()
    return mean_of_logits(wrap(network), network)


@case(
    SECTION,
    "an attribute that nothing copies (a lock)",
    before="TypeError: cannot pickle '_thread.lock' object",
    right=Refused("can't be copied.* copy=false"),
    source="it works with copy=False",
    test=f"{USER}::test_what_can_not_be_copied_says_so_and_the_remedy_works",
)
def a_lock(folder: Path) -> str:
    network: Any = odd.Plain()
    network.lock = threading.Lock()
    return f"{wrap(network)(noise(1)).shape} logits"


@case(
    SECTION,
    "an image size found at run time (timm's dynamic_img_size, made for 64 px, images of 96): mean |logit|",
    before="RuntimeError: Sizes of tensors must match except in dimension 1. Expected size 32 but got size ...",
    source=CALLED,
    test=f"{USER}::test_a_size_that_is_found_when_it_runs",
)
def dynamic_size(folder: Path) -> Pair:
    network, images = odd.tiny_vit(dynamic_img_size=True), noise(3, 96)
    with torch.no_grad():
        wanted = network(images).abs().mean().item()
        classifier = ModuleClassifier(CLASSES, 96, module=network, normalize="none")
        return Pair(classifier.predict(images).logits.abs().mean().item(), wanted)


@case(
    SECTION,
    "a layer without weights yet (nn.LazyLinear)",
    before="ValueError: Attempted to use an uninitialized parameter in <method 'detach' of ...",
    right=Refused("run it once on an image before"),
    source="its weights would be drawn anew each time",
    test=f"{USER}::test_layers_without_weights_say_so",
)
def lazy(folder: Path) -> str:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    return f"{wrap(network)(noise(1)).shape} logits"


class RootOfBrightness(odd.Plain):
    """Its logits, and their gradients, are NaN for images darker than 0.55."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * torch.sqrt(images.mean((1, 2, 3)) - 0.55)[:, None]  # type: ignore[no-any-return]


@case(
    SECTION,
    "NaN logits for dark images: what the run notes",
    before="explainer gradcam: 9 of 21 maps hold NaN or infinity and count as undefined: guard its ...",
    right=Says("^the network's logits are NaN or infinite on [0-9]+ of 28 images", "the network is named"),
    source="the module gives NaN",
    test=f"{EFFECTS}::test_logits_that_are_not_finite_are_the_networks_fault",
)
def not_finite(folder: Path) -> str:
    found = run(RootOfBrightness(), ["gradcam"], benchmark("roc_auc", "energy"))
    return "; ".join(note for note in found.notes if note.split()[0] not in ("train:", "val:", "test:", "explained"))


@case(
    SECTION,
    "batch norm without running statistics: energy of Grad-CAM in batches of 1, 3 and 32",
    before="0.0559723, 0.0531676, 0.0528232",
    right=Refused("depend on the other images of its batch .*running statistics"),
    source="an image has no score of its own",
    test=f"{USER}::test_what_depends_on_the_batch_is_refused",
)
def batch_statistics(folder: Path) -> list[float]:
    protocol = benchmark("energy")
    return [
        value(run(odd.BatchStatistics(), ["gradcam"], protocol, batch_size=size), "energy", "gradcam")
        for size in (1, 3, 32)
    ]


@case(
    SECTION,
    "a dropout that is always on: mean |logit|, twice",
    before="0.127837, 0.128228",
    right=Refused("other logits for the same images the next time"),
    source="no image has one score",
    test=f"{USER}::test_what_is_drawn_anew_each_time_is_refused",
)
def always_dropping(folder: Path) -> list[float]:
    classifier = wrap(odd.AlwaysDropping())
    with torch.no_grad(), seeded(0):
        return [classifier(noise()).abs().mean().item() for _ in range(2)]


class Bad(Explainer):
    """Does something to what it is handed, then gives maps that look well."""

    does: Callable[[Any], Any] = staticmethod(lambda classifier: None)

    def explain(self, classifier: Classifier, prediction: Any, targets: Tensor) -> Tensor:
        found = type(self).does(classifier)
        if found is not None:
            return found(len(targets))  # type: ignore[no-any-return]
        return upsample(prediction.features.detach().sum(1), prediction.frame)


@contextlib.contextmanager
def plugin(does: Callable[[Any], Any]) -> Iterator[None]:
    """Register an explainer "bad"; torch's state is as it was afterwards, whatever it does."""
    dtype, hooks = torch.get_default_dtype(), nn.modules.module._global_forward_hooks
    Bad.does = staticmethod(does)
    registry.register("explainers", "bad", Bad)
    try:
        yield
    finally:
        registry.unregister("explainers", "bad")
        torch.set_default_dtype(dtype)
        hooks.clear()


def trained() -> tuple[Any, Benchmark]:
    """Return a network that tells the test images of two classes apart."""
    protocol = benchmark("roc_auc", classes=TWO)
    network = odd.Plain(2, channels=32)
    return fitted(network, lambda images: network.body(images).mean((2, 3)), network.last, protocol), protocol


def reverse(classifier: Any) -> None:
    classifier.module.last.weight.data.mul_(-1)


def shift_buffer(classifier: Any) -> None:
    classifier.normalize.scale.mean += 5.0


def negate_all(classifier: Any) -> None:
    nn.modules.module.register_module_forward_hook(
        lambda module, _, output: -output if isinstance(module, nn.Linear) else None
    )


CHANGES: list[tuple[str, str, Callable[[Any], None]]] = [
    ("weights, by .data", "0.428571", reverse),
    ("a buffer (the mean that is subtracted)", "0.52551", shift_buffer),
    ("torch's hooks on all modules", "0.364796", negate_all),
]


def _changed(what: str, before: str, does: Callable[[Any], None]) -> None:
    @case(
        SECTION,
        f"a plugin beside Grad-CAM changes {what}: ROC-AUC in batches of 4",
        before=before,
        source=SKLEARN,
        test=f"{EFFECTS}::test_what_a_plugin_changes_is_put_back_and_told_by_name",
    )
    def changed(folder: Path) -> Pair:
        network, protocol = trained()
        right = auc_by_scikit_learn(network, protocol)
        with plugin(does):
            return Pair(value(run(network, ["bad", "gradcam"], protocol, batch_size=4), "roc_auc"), right)

    changed.__name__ = f"changed_{does.__name__}"


for _row in CHANGES:
    _changed(*_row)


@case(
    SECTION,
    "the run after it, without the plugin, on the same store: ROC-AUC",
    before="0.428571",
    source=SKLEARN,
    test=f"{EFFECTS}::test_what_a_plugin_changes_is_put_back_and_told_by_name",
)
def changed_and_stored(folder: Path) -> Pair:
    network, protocol = trained()
    right = auc_by_scikit_learn(network, protocol)
    with plugin(reverse):
        run(network, ["bad", "gradcam"], protocol, batch_size=4, store=folder / "store")
    return Pair(value(run(network, ["gradcam"], protocol, batch_size=4, store=folder / "store"), "roc_auc"), right)


@case(
    SECTION,
    "the plugin that changes weights: what the run says of it",
    before="nothing",
    right=Says("changed module.last.weight.*put back, and nothing of it is kept", "it is out, with the reason"),
    source="its maps may be of other weights",
    test=f"{EFFECTS}::test_what_a_plugin_changes_is_put_back_and_told_by_name",
)
def changed_and_named(folder: Path) -> str:
    network, protocol = trained()
    with plugin(reverse):
        return str(run(network, ["bad", "gradcam"], protocol).record["failed"].get("bad", "nothing"))


@case(
    SECTION,
    "a plugin sets torch's default dtype to float64: the default after the run",
    before="torch.float64",
    right="torch.float32",
    source="what it was",
    test=f"{EFFECTS}::test_what_a_plugin_changes_is_put_back_and_told_by_name",
)
def default_dtype(folder: Path) -> str:
    with plugin(lambda classifier: torch.set_default_dtype(torch.float64)):
        run(odd.Plain(), ["bad", "gradcam"], benchmark("energy"))
        return str(torch.get_default_dtype())


RETURNS: list[tuple[str, str, Callable[[int], Any]]] = [
    (
        "a numpy array",
        "AttributeError: 'numpy.ndarray' object has no attribute 'detach'",
        lambda count: np.zeros((count, SIZE, SIZE), dtype=np.float32),
    ),
    (
        "a meta tensor",
        "RuntimeError: Tensor.item() cannot be called on meta tensors",
        lambda count: torch.zeros((count, SIZE, SIZE), device="meta"),
    ),
    (
        "maps (B, 1, H, W)",
        "0.0277774, NotApplicableError: returned maps of shape (21, 1, 64, 64), not (21, 64, 64) (B, H, ...",
        lambda count: torch.zeros((count, 1, SIZE, SIZE)),
    ),
]


def _returned(what: str, before: str, makes: Callable[[int], Any]) -> None:
    @case(
        SECTION,
        f"an explainer that returns {what}, beside Grad-CAM: energy of Grad-CAM, and why the other is out",
        before=before,
        source="energy by hand of Grad-CAM by torch.autograd",
        test=f"{EFFECTS}::test_whatever_an_explainer_returns_it_alone_is_out",
        tolerance=1e-5,
    )
    def returned(folder: Path) -> Pair:
        right = energy_by_hand()
        with plugin(lambda classifier: makes):
            found = run(odd.Plain(), ["bad", "gradcam"], benchmark("energy"))
        why = found.record["failed"].get("bad", "it is not")
        return Pair(
            [value(found, "energy", "gradcam", "Effusion"), why], [right, Says("returned ", "what it returned")]
        )

    returned.__name__ = f"returned_{what.split()[-1].strip(')')}"


def energy_by_hand() -> float:
    """Return the mean energy in the boxes of Effusion of Grad-CAM on `Plain`'s last maps."""
    network, split = odd.Plain().eval(), load_splits(benchmark("energy"), None).test
    shares = []
    for row in range(len(split)):
        sample = split[row]
        for target, region in sample.regions.items():
            if CLASSES[target] != "Effusion":
                continue
            image = torch.from_numpy(sample.image)[None].expand(-1, 3, -1, -1)
            maps = network.second(F.relu(network.first(image))).detach().requires_grad_()
            logit = network.last(F.relu(maps).mean((2, 3)))[0, target]
            (gradient,) = torch.autograd.grad(logit, maps)
            heat = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach()
            heat = F.interpolate(heat, (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0].double()
            x0, y0, x1, y1 = (math.ceil(edge - 0.5) for edge in region.boxes[0])  # pixels whose centre is inside
            shares.append(float(heat[y0:y1, x0:x1].sum() / heat.sum()))
    return float(np.nanmean(shares))


for _row in RETURNS:
    _returned(*_row)


class Quits(Bad):
    def explain(self, classifier: Classifier, prediction: Any, targets: Tensor) -> Tensor:
        raise SystemExit(0)


@case(
    SECTION,
    "an explainer that calls sys.exit(0), beside Grad-CAM, from the command line: exit code, runs written",
    before="0, 0",
    right=[1, 1],
    source="the others are scored, and something failed",
    test=f"{EFFECTS}::test_the_command_line_completes_and_fails",
)
def quits(folder: Path) -> list[int]:
    (folder / "tiny.toml").write_text(
        'name = "tiny"\nclasses = ["No Finding", "Effusion"]\ninput_size = 64\n[dataset]\nname = "phantom"\n'
        'options = { train = 4, val = 2, test = 8 }\n[[metrics]]\nname = "energy"\n'
    )
    registry.register("explainers", "quits", Quits)
    command = ["run", f"module:{odd.__file__}:Plain", "-e", "quits", "-e", "gradcam", "-b", f"{folder}/tiny.toml"]
    try:
        code: Any = main([*command, "-o", "outputs=[0,1]", "--out", f"{folder}/runs", "--no-store", "--device", "cpu"])
    except SystemExit as error:
        code = error.code
    finally:
        registry.unregister("explainers", "quits")
    return [code, len(list((folder / "runs").glob("*/run.json")))]
