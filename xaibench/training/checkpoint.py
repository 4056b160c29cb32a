"""Checkpoints: trained weights as safetensors, and beside them a JSON that says what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from xaibench.benchmark import Benchmark, ClassifierSpec, Recipe, digest
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.errors import WeightsError, first_line
from xaibench.io.files import cache_dir, make_folder, remove_parts, write_atomically
from xaibench.io.limits import read_json


@dataclass(frozen=True)
class Making:
    """Everything that decides a checkpoint's weights; its hash names the checkpoint.

    Fields of the recipe at their defaults stay out of the hash, so that a field added later changes no hash.
    """

    classifier: str
    classes: tuple[str, ...]
    task: str
    input_size: int
    options: Mapping[str, Any]
    recipe: Mapping[str, Any]
    data: Mapping[str, str]
    """Fingerprints of the splits that training reads."""

    @property
    def hash(self) -> str:
        defaults = Recipe().model_dump(mode="json")
        recipe = {key: value for key, value in self.recipe.items() if value != defaults.get(key)}
        return digest({**asdict(self), "recipe": recipe})

    @classmethod
    def of(cls, name: str, spec: ClassifierSpec, benchmark: Benchmark, splits: Splits) -> Making:
        """Collect what decides the weights of a classifier trained by a benchmark's recipe."""
        data = {"train": splits.train.fingerprint, "val": splits.val.fingerprint}
        if spec.recipe.selection == "paper":
            data["test"] = splits.test.fingerprint
        recipe = spec.recipe.model_dump(mode="json")
        return cls(name, benchmark.classes, benchmark.task, benchmark.input_size, dict(spec.options), recipe, data)

    def differences(self, other: Making) -> list[str]:
        """Name what differs, for an error message: ``recipe.epochs: 10, not 20``."""
        mine, theirs = _flat(asdict(self)), _flat(asdict(other))
        keys = sorted(mine.keys() | theirs.keys())
        return [
            f"{key}: {_short(mine.get(key))}, not {_short(theirs.get(key))}"
            for key in keys
            if mine.get(key) != theirs.get(key)
        ]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    path: Path
    making: Making
    history: list[dict[str, float | None]] = field(default_factory=list)
    """Per epoch: epoch, loss, auc (mean ROC-AUC on the split that selects, None where it is empty)."""
    encoder_sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    weights_sha256: str = ""
    """Of the weights' file; empty where an earlier version wrote it."""

    @property
    def json_path(self) -> Path:
        return self.path.with_suffix(".json")


def save_checkpoint(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
    """Write weights and JSON, each whole and on the disk before it has its name, the JSON last.

    The JSON holds a checksum of the weights and one of itself: a bit that a disk loses is noticed, not explained.
    """
    make_folder(checkpoint.path.parent)
    remove_parts(checkpoint.path.parent)
    # save_file would leave a file that only its owner can read.
    weights = save({name: tensor.contiguous() for name, tensor in state.items()})
    known = {key: value for key, value in asdict(checkpoint).items() if key != "path"}
    known |= {"hash": checkpoint.making.hash, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    table = json.loads(json.dumps(known))
    text = json.dumps({**table, "checksum": digest(table)}, indent=1) + "\n"
    # Should this be killed between the two, no JSON must stand beside weights that it does not describe.
    checkpoint.json_path.unlink(missing_ok=True)
    write_atomically(checkpoint.path, lambda part: part.write_bytes(weights))
    write_atomically(checkpoint.json_path, lambda part: part.write_text(text, encoding="utf-8"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what a checkpoint says of itself.

    Raises:
        WeightsError: no such file, or its JSON is missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint {path}")
    beside = path.with_suffix(".json")
    try:
        table = read_json(beside)
        checksum = table.pop("checksum", None)
        if checksum is not None and checksum != digest(table):  # earlier versions wrote none
            raise ValueError("its checksum is wrong")
        table.pop("hash")
        making = table.pop("making")
        making["classes"] = tuple(making["classes"])
        making["recipe"] = {**Recipe().model_dump(mode="json"), **making["recipe"]}  # written before a field was added
        return Checkpoint(path=path, making=Making(**making), **table)
    except FileNotFoundError as error:
        raise WeightsError(f"{beside} is missing: a checkpoint needs the JSON that was written with it") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{beside} is damaged ({first_line(error)}): delete it, and the same command trains again"
        ) from error


def load_weights(classifier: Classifier, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into the classifier that its JSON describes.

    Raises:
        WeightsError: a damaged file, other shapes, or trained on another encoder's weights.
    """
    if checkpoint.encoder_sha256 != classifier.weights.sha256:
        raise WeightsError(
            f"{checkpoint.path} was trained on other pretrained weights (sha256 {checkpoint.encoder_sha256[:12]}, here "
            f"{classifier.weights.sha256[:12]} from {classifier.weights.source}): train again, with xaibench train"
        )
    try:
        content = checkpoint.path.read_bytes()
        if checkpoint.weights_sha256 not in ("", hashlib.sha256(content).hexdigest()):
            raise WeightsError(
                f"{checkpoint.path} is damaged, its checksum is another than in {checkpoint.json_path.name}: delete "
                "it, and the same command trains again"
            )
        classifier.load_trained_state(load(content))
    except (SafetensorError, RuntimeError, OSError, ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"{checkpoint.path} can't be loaded ({first_line(error)}): delete it, and the same command trains again"
        ) from error


def checkpoint_path(benchmark: str, making: Making) -> Path:
    """Return where a checkpoint is kept in the user's cache."""
    name = making.classifier.replace(":", "-").replace("/", "-")
    return cache_dir() / "checkpoints" / f"{benchmark}-{name}-{making.hash[:12]}.safetensors"


def find_checkpoint(benchmark: str, making: Making) -> Checkpoint | None:
    """Look for a checkpoint made exactly so: in the user's cache, then among those that came with xaibench."""
    kept = checkpoint_path(benchmark, making)
    for path in (kept, *sorted(shipped_checkpoints())):
        if path.is_file() and path.with_suffix(".json").is_file():
            checkpoint = read_checkpoint(path)
            if checkpoint.making.hash == making.hash:
                return checkpoint
    return None


def shipped_checkpoints() -> list[Path]:
    """Return the checkpoints that travel with the package."""
    from xaibench.builtin_benchmarks import phantom

    return list((phantom.parent / "checkpoints").glob("*.safetensors"))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: list(value) if isinstance(value, tuple) else value}


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
