"""From names to things: splits, a classifier with its weights, explainers that apply, metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench import registry
from xaibench.benchmark import Benchmark, ClassifierSpec, Recipe, override
from xaibench.classifiers.base import Classifier, Weights, hash_tensors
from xaibench.classifiers.copies import deepcopied
from xaibench.classifiers.module import ModuleClassifier
from xaibench.classifiers.probe import check_parts
from xaibench.classifiers.state import State
from xaibench.datasets.base import Splits
from xaibench.errors import (
    PLUGIN_ERRORS,
    NotApplicableError,
    PluginError,
    SideEffectError,
    UsageError,
    WeightsError,
    XaibenchError,
)
from xaibench.explainers.base import Explainer
from xaibench.explainers.calling import undone
from xaibench.findings import Note
from xaibench.io.files import alone, cache_dir, hold
from xaibench.io.memory import out_of_memory
from xaibench.plugins import accepts, build, check_options
from xaibench.progress import Progress
from xaibench.registry import BrokenPluginError
from xaibench.torch_settings import restored_settings
from xaibench.training.arrays import remove_arrays
from xaibench.training.checkpoint import (
    Checkpoint,
    Making,
    checkpoint_path,
    find_checkpoint,
    load_weights,
    read_checkpoint,
)
from xaibench.types import Prediction


def load_splits(benchmark: Benchmark, data_root: Path | None) -> Splits:
    """Build the benchmark's dataset.

    Raises:
        DataError: data missing or damaged.
        UsageError: an option or class that the dataset does not have.
    """
    name = benchmark.dataset.name
    splits = build(
        "datasets",
        name,
        classes=benchmark.classes,
        input_size=benchmark.input_size,
        data_root=data_root,
        options=dict(benchmark.dataset.options),
        **({"task": benchmark.task} if accepts("datasets", name, "task", by_name=True) else {}),
    )
    assert isinstance(splits, Splits)
    return splits


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first GPU where there is one, else the CPU.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no device {name!r} here ({str(error).splitlines()[0][:100]}): use --device cpu") from error
    return device


def spec_of(
    name: str | nn.Module, benchmark: Benchmark, options: Mapping[str, Any], recipe: Mapping[str, Any]
) -> ClassifierSpec:
    """Return a classifier's options and recipe; one that comes trained needs neither from the benchmark.

    Raises:
        BenchmarkError: the benchmark has no recipe for it, or an override is wrong.
        PluginError: unknown or broken.
    """
    if isinstance(name, nn.Module):
        comes_trained, name = True, type(name).__name__
    else:
        comes_trained = getattr(registry.get("classifiers", name).load(), "comes_trained", False)
    if comes_trained:
        if recipe:
            raise UsageError(f"{name} comes with its weights and is not trained: leave out the recipe's {min(recipe)}")
        return override(benchmark.classifiers.get(name, ClassifierSpec()), options, {})
    return override(benchmark.classifier(name), options, recipe)


def make_classifier(name: str | nn.Module, spec: ClassifierSpec, benchmark: Benchmark) -> Classifier:
    """Make a classifier by a benchmark's options, its trained part still untrained; wrap one that is a module.

    Raises:
        UsageError: a `Classifier` of other classes or another input size than the benchmark's.
    """
    if isinstance(name, nn.Module):
        return _wrapped(name, spec, benchmark)
    options: Mapping[str, Any] = spec.options
    if accepts("classifiers", name, "seed"):
        options = {"seed": spec.recipe.seed, **options}
    made = build("classifiers", name, classes=benchmark.classes, input_size=benchmark.input_size, **options)
    if not isinstance(made, Classifier):
        raise PluginError(f"classifier {name!r} makes a {type(made).__name__}, which is no Classifier")
    return _for_task(made, benchmark)


def _for_task(classifier: Classifier, benchmark: Benchmark) -> Classifier:
    classifier.check_task(benchmark.task)
    classifier.task = benchmark.task
    return classifier


def _wrapped(module: nn.Module, spec: ClassifierSpec, benchmark: Benchmark) -> Classifier:
    if not isinstance(module, Classifier):
        allowed = dict(spec.options)
        check_options(ModuleClassifier, type(module).__name__, {"classes": (), "module": module, **allowed})
        made = ModuleClassifier(benchmark.classes, benchmark.input_size, module=module, **allowed)
        return _for_task(made, benchmark)
    if spec.options:
        raise UsageError(f"{type(module).__name__} is made already: leave out the option {min(spec.options)}")
    for what, its, wanted in (
        ("classes", list(module.classes), list(benchmark.classes)),
        ("input_size", module.input_size, benchmark.input_size),
    ):
        if its != wanted:
            raise UsageError(f"{type(module).__name__} has {what} = {its}, benchmark {benchmark.name!r} {wanted}")
    given = deepcopied(module)  # the user's own keeps its mode and layout
    given.comes_trained = True
    given.weights = Weights(f"as given, on {given.weights.source}", hash_tensors(given.state_dict().items()))
    return _for_task(given, benchmark)


def check_logits(classifier: Classifier, name: str) -> None:
    """Return if a classifier's logits of an image are its own, and body and head are the network.

    Raises:
        UsageError: they depend on the other images of a batch or on chance, or are not those of the network.
        PluginError: the classifier can't be run.
    """
    modes = [(layer, layer.training) for layer in classifier.modules()]
    try:
        classifier.eval()
        with restored_settings() as changed:
            check_parts(classifier, name)
        if changed:
            raise UsageError(
                f"classifier {name!r} changes {changed[0]} when it runs, for all that run after it: take that out of it"
            )
    except XaibenchError:
        raise
    except PLUGIN_ERRORS as error:
        if out_of_memory(error):
            return  # the probe images are too many for this memory: the run halves its batches
        side = classifier.input_size
        reason = f"classifier {name!r} can't be run on images of 3 x {side} x {side}: {registry.one_line(error)}"
        raise PluginError(reason) from error
    finally:
        for layer, mode in modes:
            layer.training = mode


def weights_hash(classifier: Classifier) -> str:
    """Return the sha256 of what a recipe trained, or of the weights that came with the classifier."""
    return classifier.weights.sha256 if classifier.comes_trained else hash_tensors(classifier.trained_state().items())


def obtain_weights(
    name: str,
    classifier: Classifier,
    spec: ClassifierSpec,
    benchmark: Benchmark,
    splits: Splits,
    *,
    given: Path | None = None,
    retrain: bool = False,
    devices: int = 1,
    progress: Progress | None = None,
) -> Checkpoint:
    """Load the checkpoint that the recipe makes, training it first where there is none.

    A classifier that comes trained is left as it is.

    Args:
        given: a checkpoint to use instead; it must have been made by the same recipe on the same data.
        retrain: train even if there is one.
        devices: how many share a training.

    Raises:
        WeightsError: `given` was made otherwise (says how), or a file is damaged.
    """
    progress = progress or Progress()
    making = Making.of(name, spec, benchmark, splits)
    if classifier.comes_trained:
        if given is not None or retrain:
            raise UsageError(f"{name} comes with its weights: it takes no checkpoint and is not trained")
        return Checkpoint(Path(), making)
    if given is not None:
        checkpoint = read_checkpoint(given)
        if differences := making.differences(checkpoint.making):
            more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise WeightsError(
                f"{given} was made by another recipe: here {'; '.join(differences[:3])}{more}. Leave --checkpoint out "
                "to train by this one, or give the benchmark it was made for"
            )
        load_weights(classifier, checkpoint)
        return checkpoint
    found = None if retrain else find_checkpoint(benchmark.name, making)
    scratch = cache_dir() / "training" / making.hash[:16]
    lock = cache_dir() / "locks" / f"{making.hash[:16]}.lock"  # two would write into one folder of features
    if found is not None:
        if scratch.is_dir():  # its training was killed while it tidied up
            with contextlib.suppress(OSError), open(lock, "ab") as file:
                if hold(file):
                    remove_arrays(scratch)
        load_weights(classifier, found)
        return found
    path = checkpoint_path(benchmark.name, making)
    with alone(lock, lambda: progress.say(f"another process trains {name} by this recipe: waiting for it")):
        if not retrain and (found := find_checkpoint(benchmark.name, making)) is not None:  # the other one made it
            load_weights(classifier, found)
            return found
        classifier.optimized()
        if not type(classifier).__module__.startswith("xaibench."):  # ours have looked when they were made
            check_logits(classifier, name)
        seconds = expected_seconds(classifier, spec.recipe, splits)
        epochs = f"{spec.recipe.epochs} epoch{'' if spec.recipe.epochs == 1 else 's'}"
        progress.say(
            f"training {name}: {epochs} of {len(splits.train):,} images, about {duration(seconds)} "
            f"on {classifier.device.type}; kept in {path}"
        )
        from xaibench.training.train import train  # Lightning takes seconds to import

        return train(classifier, splits, spec.recipe, making, path, progress, devices=devices)


def expected_seconds(classifier: Classifier, recipe: Recipe, splits: Splits) -> float:
    """Estimate how long training takes, from one timed batch without gradients: a step costs about three of them."""
    images = torch.rand(recipe.batch_size, 3, classifier.input_size, classifier.input_size, device=classifier.device)
    images = classifier.laid_out(images)
    was_training = classifier.training
    classifier.eval()
    with torch.no_grad():
        z, features = _timed(lambda: classifier.features(images))
        head = _timed(lambda: classifier.head(z, images))[1]
    classifier.train(was_training)
    train, held_out = len(splits.train) / recipe.batch_size, len(splits.val) / recipe.batch_size
    if classifier.body_is_frozen:
        once = features * (train * (1 + recipe.flip) * (1 + recipe.augment) + held_out)
        return once + recipe.epochs * head * (3 * train + held_out)
    return recipe.epochs * (features + head) * (3 * train + held_out)


def _timed(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return what a call gives and the seconds that its second time takes: the first one warms up."""
    call()
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def duration(seconds: float) -> str:
    """Say a duration.

    >>> duration(42), duration(600), duration(9000)
    ('1 minute', '10 minutes', '2.5 hours')
    """
    minutes = max(1, round(seconds / 60))
    if minutes >= 100:
        return f"{seconds / 3600:.1f} hours"
    return f"{minutes} minute{'s' * (minutes > 1)}"


def make_explainers(
    names: Sequence[str], baselines: Sequence[str], classifier: Classifier, splits: Splits
) -> tuple[dict[str, Explainer], dict[str, Explainer], list[str]]:
    """Make the explainers asked for and the benchmark's baselines, all prepared and checked.

    Where the data has no box to learn a prior from, `prior_box` gives way to `oracle_prior_box`, so named. A plugin
    that can't be imported or made costs the others nothing: a `Broken` takes its place, which the stream gives up.

    Returns:
        Explainers, baselines, and notes for the user.

    Raises:
        NotApplicableError: an explainer asked for does not apply to the classifier or the data.
    """
    notes: list[str] = []
    asked = {name: ready_or_broken(name, classifier, splits) for name in dict.fromkeys(names)}
    if all(isinstance(explainer, Broken) for explainer in asked.values()):
        raise next(explainer.error for explainer in asked.values() if isinstance(explainer, Broken))
    beside: dict[str, Explainer] = {}
    for name in baselines:
        if name in asked:
            continue
        try:
            beside[name] = _ready(name, classifier, splits)
        except NotApplicableError as error:
            if name != "prior_box":
                notes.append(f"baseline {name} left out: {error}")
            elif "oracle_prior_box" not in asked:
                try:
                    beside["oracle_prior_box"] = _ready("oracle_prior_box", classifier, splits)
                    text = (
                        "no boxes in training or validation: the prior box is made of the test boxes "
                        "(oracle_prior_box), an upper bound that has seen the answers"
                    )
                    notes.append(Note(text, "warning"))
                except NotApplicableError:
                    notes.append("no boxes in the test split: no localization is scored")
    return asked, beside, notes


class Broken(Explainer):
    """In place of a plugin that can't be used: says why when it is asked to explain."""

    def __init__(self, error: XaibenchError) -> None:
        self.error = error

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        raise self.error


def ready_or_broken(name: str, classifier: Classifier, splits: Splits) -> Explainer:
    try:
        return _ready(name, classifier, splits)
    except BrokenPluginError as error:
        return Broken(error)
    except SideEffectError as error:
        return Broken(SideEffectError(f"explainer {name!r} of {registry.get('explainers', name).package} {error}"))
    except XaibenchError:  # a wrong name, or a method that does not apply: for the user to mend
        raise
    except PLUGIN_ERRORS as error:  # whatever a plugin does in its constructor, check or prepare
        entry = registry.get("explainers", name)
        reason = f"explainer {name!r} of {entry.package} can't be used: {registry.one_line(error)}"
        return Broken(PluginError(f"{reason}. See what is wrong: xaibench plugin check {entry.distribution}"))


def _ready(name: str, classifier: Classifier, splits: Splits) -> Explainer:
    if registry.get("explainers", name).is_builtin:
        return _prepared(name, classifier, splits)
    state = State.of(classifier)
    try:
        with undone(classifier):
            return _prepared(name, classifier, splits)
    finally:
        state.restore(classifier)


def _prepared(name: str, classifier: Classifier, splits: Splits) -> Explainer:
    explainer = build("explainers", name)
    if not isinstance(explainer, Explainer):
        raise TypeError(f"it makes a {type(explainer).__name__}, which is no Explainer")
    explainer.check(classifier)
    explainer.prepare(splits)
    return explainer
