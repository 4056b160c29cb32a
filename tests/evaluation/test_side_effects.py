"""What an explainer or metric of another package does to the classifier, to torch or to the run costs only itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.classifiers.odd_networks import NotANumber, Plain
from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.nin import NIN
from xaibench.classifiers.snapshot import Snapshot
from xaibench.errors import UsageError
from xaibench.evaluation.evaluate import evaluate
from xaibench.explainers.base import Explainer, upsample
from xaibench.metrics.base import metric
from xaibench.results.run import Run
from xaibench.torch_settings import restored_settings
from xaibench.types import Prediction

BENCHMARK = tiny_benchmark(metrics=[{"name": "roc_auc"}, {"name": "hit_rate"}, {"name": "energy"}])


def weights_of(classifier: Any) -> Any:
    return classifier.module.first


def through_data(classifier: Any, prediction: Prediction) -> None:
    weights_of(classifier).weight.data.mul_(-3)  # which no version counter tells


def in_place(classifier: Any, prediction: Prediction) -> None:
    with torch.no_grad():
        classifier.module.last.bias.add_(7)


def by_another(classifier: Any, prediction: Prediction) -> None:
    weights_of(classifier).weight = nn.Parameter(torch.zeros_like(weights_of(classifier).weight))


def buffer(classifier: Any, prediction: Prediction) -> None:
    classifier.normalize.scale.mean += 0.5


def stride(classifier: Any, prediction: Prediction) -> None:
    weights_of(classifier).stride = (8, 8)


def layer(classifier: Any, prediction: Prediction) -> None:
    classifier.module.second = nn.Identity()


def default_dtype(classifier: Any, prediction: Prediction) -> None:
    torch.set_default_dtype(torch.float64)


def global_hook(classifier: Any, prediction: Prediction) -> None:
    nn.modules.module.register_module_forward_hook(lambda _, __, output: output * 2)


def threads(classifier: Any, prediction: Prediction) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


def deterministic(classifier: Any, prediction: Prediction) -> None:
    torch.use_deterministic_algorithms(True)


CHANGES: dict[str, Callable[[Any, Prediction], None]] = {
    "changed module.first.weight": through_data,
    "changed module.last.bias": in_place,
    "replaced module.first.weight": by_another,
    "changed normalize.scale.mean": buffer,
    "set module.first.stride": stride,
    "replaced module.second": layer,
    "changed torch's default dtype to torch.float64": default_dtype,
    "changed the hooks on all modules": global_hook,
    "changed torch's number of threads": threads,
    "changed torch's deterministic algorithms": deterministic,
}


class Bad(Explainer):
    """Does something to what it is handed, then gives maps that look well."""

    does: Callable[[Any, Prediction], Any] = staticmethod(lambda classifier, prediction: None)

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        found = type(self).does(classifier, prediction)
        if found is not None:
            return found  # type: ignore[no-any-return]
        return upsample(prediction.features.detach().sum(1), prediction.frame)


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    registry.register("explainers", "bad", Bad)
    yield
    registry.unregister("explainers", "bad")
    Bad.does = staticmethod(lambda classifier, prediction: None)


def run(*explainers: str, **options: Any) -> Run:
    return evaluate(Plain(), list(explainers), options.pop("benchmark", BENCHMARK), device="cpu", **options)


def values(found: Run) -> dict[Any, float | None]:
    return {(s.explainer, s.metric, s.class_name): s.value for s in found.scores if s.explainer != "bad"}


@pytest.mark.parametrize("says", CHANGES)
def test_what_a_plugin_changes_is_put_back_and_told_by_name(says: str, tmp_path: Path) -> None:
    alone = run("gradcam", store=tmp_path / "clean")
    Bad.does = staticmethod(CHANGES[says])
    with restored_settings() as changed:
        found = run("bad", "gradcam", store=tmp_path / "store", out=tmp_path)
        again = run("gradcam", store=tmp_path / "store")
    assert changed == []
    assert values(found) == values(again) == values(alone)
    assert found.record["weights"] == alone.record["weights"]
    assert set(found.record["failed"]) == {"bad"}
    assert says in found.record["failed"]["bad"]
    assert "put back, and nothing of it is kept" in found.record["failed"]["bad"]
    assert not found.select(explainer="bad")


def test_images_and_features_that_a_plugin_writes_to_are_its_own(tmp_path: Path) -> None:
    alone = run("gradcam", "saliency")

    def write(classifier: Any, prediction: Prediction) -> None:
        for tensor in (prediction.images, prediction.features, prediction.logits):
            tensor.zero_()

    Bad.does = staticmethod(write)
    assert values(run("bad", "gradcam", "saliency")) == values(alone)


RETURNS: dict[str, Any] = {
    "a numpy.ndarray, not a torch.Tensor": lambda shape: np.zeros(shape, dtype=np.float32),
    "a builtins.list, not a torch.Tensor": lambda shape: [torch.zeros(shape[1:])] * shape[0],
    "a meta tensor": lambda shape: torch.zeros(shape, device="meta"),
    "a complex tensor": lambda shape: torch.zeros(shape, dtype=torch.complex64),
    "a sparse or quantized tensor": lambda shape: torch.zeros(shape).to_sparse(),
    "maps of shape": lambda shape: torch.zeros(shape)[:, None],
}


@pytest.mark.parametrize("says", RETURNS)
def test_whatever_an_explainer_returns_it_alone_is_out(says: str) -> None:
    def give(classifier: Any, prediction: Prediction) -> Any:
        return RETURNS[says]((len(prediction), prediction.frame.height, prediction.frame.width))

    alone = run("gradcam")
    Bad.does = staticmethod(give)
    found = run("bad", "gradcam")
    assert f"returned {says}" in found.record["failed"]["bad"]
    assert values(found) == values(alone)


@pytest.mark.parametrize(
    ("error", "says"), [(SystemExit(0), "SystemExit: 0"), (RuntimeError("no\nmap"), "RuntimeError: no map")]
)
def test_whatever_an_explainer_raises_it_alone_is_out(error: BaseException, says: str) -> None:
    def fail(classifier: Any, prediction: Prediction) -> None:
        raise error

    alone = run("gradcam")
    Bad.does = staticmethod(fail)
    found = run("bad", "gradcam")
    assert found.record["failed"]["bad"] == says
    assert values(found) == values(alone)


def test_maps_that_go_on_being_written_to_are_scored_as_they_were_given() -> None:
    kept = torch.zeros(64, 64, 64)

    def give(classifier: Any, prediction: Prediction) -> Tensor:
        found = kept[: len(prediction)]
        found.copy_(prediction.images.mean(1))
        return found

    Bad.does = staticmethod(give)
    first = run("bad", batch_size=4)
    Bad.does = staticmethod(lambda classifier, prediction: prediction.images.mean(1))
    second = run("bad", batch_size=4)
    assert [s.value for s in first.select(explainer="bad")] == [s.value for s in second.select(explainer="bad")]


def test_one_that_changes_something_only_when_a_metric_calls_it_is_out_too(tmp_path: Path) -> None:
    calls: list[int] = []

    def later(classifier: Any, prediction: Prediction) -> None:
        calls.append(1)
        if len(prediction) > 20:  # images near the ones explained
            in_place(classifier, prediction)

    metrics = [{"name": "energy"}, {"name": "max_sensitivity", "parameters": {"samples": 8}}]
    benchmark = tiny_benchmark(metrics=metrics)
    alone = run("gradcam", benchmark=benchmark, batch_size=4)
    Bad.does = staticmethod(later)
    found = run("bad", "gradcam", benchmark=benchmark, batch_size=4, store=tmp_path / "store")
    assert "changed module.last.bias" in found.record["failed"]["bad"]
    assert values(found) == values(alone)
    assert values(run("gradcam", benchmark=benchmark, batch_size=4, store=tmp_path / "store")) == values(alone)


class AtCheck(Bad):
    def check(self, classifier: Classifier) -> None:
        in_place(classifier, None)  # type: ignore[arg-type]


def test_one_that_changes_something_when_it_is_asked_whether_it_applies(tmp_path: Path) -> None:
    alone = run("gradcam")
    registry.register("explainers", "early", AtCheck)
    try:
        found = run("early", "gradcam")
    finally:
        registry.unregister("explainers", "early")
    assert "explainer 'early' of this session changed module.last.bias" in found.record["failed"]["early"]
    assert values(found) == values(alone)


@metric("greedy", category="localization", direction="higher", range=(0.0, 1.0), title="Greedy", reference="-")
def greedy(maps: Tensor, masks: Tensor) -> Tensor:
    """Write to what it is handed."""
    maps.zero_()
    masks.fill_(True)
    torch.set_default_dtype(torch.float64)
    return torch.ones(len(maps))


def test_a_metric_of_a_plugin_costs_only_itself() -> None:
    registry.register("metrics", "greedy", greedy)
    try:
        both = [{"name": "roc_auc"}, {"name": "greedy"}, {"name": "energy"}]
        found = run("gradcam", benchmark=tiny_benchmark(metrics=both))
    finally:
        registry.unregister("metrics", "greedy")
    assert torch.get_default_dtype() == torch.float32
    alone = run("gradcam", benchmark=tiny_benchmark(metrics=[{"name": "roc_auc"}, {"name": "energy"}]))
    assert [s.value for s in found.select(metric="energy")] == [s.value for s in alone.select(metric="energy")]
    assert "changed torch's default dtype" in found.record["given_up"]["greedy"]["gradcam"]


def test_a_snapshot_sees_bits_not_numbers_and_restores_them() -> None:
    network = Plain()
    with torch.no_grad():
        network.last.bias[0] = torch.nan
    snapshot = Snapshot(network)
    assert snapshot.changes() == []  # NaN is itself
    network.first.weight.data[0, 0, 0, 0] = -0.0
    network.second.weight.data = network.second.weight.data.double()
    network.second.register_buffer("more", torch.zeros(1))
    assert snapshot.changes() == ["changed first.weight", "changed second.weight", "replaced second.more"]
    snapshot.restore()
    assert snapshot.changes() == []
    assert network.second.weight.dtype == torch.float32


def test_logits_that_are_not_finite_are_the_networks_fault() -> None:
    network = NotANumber(limit=0.42)
    run = evaluate(network, ["gradcam"], BENCHMARK, options={"normalize": "none"}, device="cpu")
    (note,) = [note for note in run.notes if note.startswith("the network's logits are NaN or infinite on ")]
    assert " of 28 images (phantom-0-test-" in note
    assert not any(note.startswith("explainer gradcam") for note in run.notes)
    assert run.select(metric="roc_auc", class_name="macro")[0].value is None


def test_the_command_line_completes_and_fails(tmp_path: Path) -> None:
    """`sys.exit(0)` in a plugin gave exit code 0 and wrote nothing."""
    site = tmp_path / "site"
    (site / "quits-1.0.dist-info").mkdir(parents=True)
    (site / "quits-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: quits\nVersion: 1.0\n")
    (site / "quits-1.0.dist-info" / "entry_points.txt").write_text("[xaibench.explainers]\nquits = quits:Quits\n")
    (site / "quits.py").write_text(
        "import sys\nfrom xaibench.explainers.base import Explainer\n\n\nclass Quits(Explainer):\n"
        "    def explain(self, classifier, prediction, targets):\n        sys.exit(0)\n"
    )
    toml = tmp_path / "tiny.toml"
    toml.write_text(
        'name = "tiny"\nclasses = ["No Finding", "Effusion"]\ninput_size = 64\n[dataset]\nname = "phantom"\n'
        'options = { train = 4, val = 2, test = 8 }\n[[metrics]]\nname = "energy"\n'
    )
    network = f"module:{Path(__file__).parent.parent / 'classifiers' / 'odd_networks.py'}:Plain"
    command = [sys.executable, "-m", "xaibench", "run", network, "-e", "quits", "-e", "gradcam", "-b", str(toml)]
    command += ["-o", "outputs=[0,1]", "--out", str(tmp_path / "runs"), "--no-store"]
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "XAIBENCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "explainer quits failed (SystemExit: 0); the other scores are kept in" in done.stderr
    (written,) = (tmp_path / "runs").glob("*/run.json")
    scores = json.loads(written.read_text())["scores"]
    assert {score["explainer"] for score in scores} >= {"gradcam", "center"}


def test_what_a_file_sets_when_it_is_imported_is_put_back(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n"
        "from tests.classifiers.odd_networks import Plain\n"
        "torch.set_default_dtype(torch.float64)\n"
        "def make():\n"
        "    torch.set_default_dtype(torch.float32)\n"
        "    made = Plain()\n"
        "    torch.set_default_dtype(torch.float64)\n"
        "    return made\n"
    )
    with restored_settings() as changed:
        found = evaluate(f"module:{file}:make", ["gradcam"], BENCHMARK, device="cpu")
    assert changed == []
    assert values(found) == values(run("gradcam"))


def test_a_network_that_changes_settings_when_it_runs_is_refused() -> None:
    class Sets(Plain):
        def forward(self, images: Tensor) -> Tensor:
            torch.set_num_threads(torch.get_num_threads() + 1)
            return super().forward(images)

    threads = torch.get_num_threads()
    with pytest.raises(UsageError, match=r"'Sets' changes torch's number of threads to .* when it runs"):
        evaluate(Sets(), ["gradcam"], BENCHMARK, device="cpu")
    assert torch.get_num_threads() == threads


def test_what_a_plugin_sets_when_it_makes_a_classifier_is_put_back_and_told() -> None:
    class Setting(NIN):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            torch.use_deterministic_algorithms(True)
            np.seterr(all="raise")

    registry.register("classifiers", "setting", Setting)
    try:
        with restored_settings() as changed:
            found = evaluate("setting", ["cam"], BENCHMARK, device="cpu", options={"weights": "random"})
    finally:
        registry.unregister("classifiers", "setting")
    assert changed == []
    told = [note for note in found.notes if note.startswith("making the classifier, data and metrics changed")]
    assert len(told) == 2
    assert "deterministic" in told[0]
    assert "numpy" in told[1]
