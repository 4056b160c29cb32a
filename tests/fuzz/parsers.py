"""Every parser of xaibench with a valid file for it: what is damaged, and what reads it to the end."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from tests.datasets.nih_release import CLASSES, standard_boxes, standard_rows, write_release
from tests.evaluation.saved_runs import saved_run
from tests.tiny import tiny_benchmark
from xaibench.benchmark import read_benchmark
from xaibench.builtin_benchmarks import FOLDER, phantom
from xaibench.classifiers.weights import read_state_dict
from xaibench.datasets.chestxray8 import chestxray8
from xaibench.datasets.chestxray8.audit import audit, inspect
from xaibench.datasets.chestxray8.images import decode
from xaibench.datasets.folder import folder
from xaibench.datasets.folder.audit import audit as audit_folder
from xaibench.datasets.raster import read_header, read_values, turn
from xaibench.explainers.maps import read_map
from xaibench.published import read_published
from xaibench.results.leaderboard import PINS, TurnedAwayError, read_pins, read_result, read_results
from xaibench.results.run import Run, save_run
from xaibench.studies.gcm_paper.rated import read_ratings
from xaibench.training.checkpoint import Checkpoint, Making, load_weights, read_checkpoint

RAMP = np.arange(48, dtype=np.float32).reshape(6, 8)


@dataclass(frozen=True)
class Parser:
    """A parser.

    Attributes:
        make: writes valid files into a folder and returns the one to damage.
        read: reads that file as a user's command would.
        text: damage fields too.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    text: bool = True


def _release(kind: str) -> Parser:
    def make(root: Path) -> Path:
        rows = standard_rows()[:24]
        names = [row.split(",")[0] for row in rows]
        lists = {"train_val_list_NIH.txt": names[9:], "test_list_NIH.txt": names[:9]}
        write_release(root, rows, standard_boxes(), lists=lists, size=16)
        return root / kind

    def read(path: Path) -> None:
        options = {"split": "official_split", "allow_missing": True}
        audit(path.parent)
        chestxray8(classes=CLASSES, input_size=16, data_root=path.parent, options=options)

    return Parser(make, read)


def _write_folder(root: Path) -> None:
    (root / "images").mkdir()
    rows, boxes = ["image,patient,split,No Finding,Mass"], ["image,class,x0,y0,x1,y1"]
    for n in range(8):
        Image.fromarray(np.full((20, 24), 20 * n, dtype=np.uint8)).save(root / "images" / f"{n}.png")
        rows.append(f"{n}.png,p{n},{'train' if n < 4 else 'test'},{1 - n % 2},{n % 2}")
        if n % 2:
            boxes.append(f"{n}.png,Mass,1,2,{3 + n},6.5")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    images = [
        {"id": n, "file_name": f"{n}.png", "patient": f"p{n}", "split": "train" if n < 4 else "test"} for n in range(8)
    ]
    shapes: list[Any] = [
        [[1, 1, 8, 1, 8, 6.5]],
        {"size": [20, 24], "counts": [25, 7, 3, 10, 435]},
        {"size": [20, 24], "counts": "0P?"},
        [[0, 0, 3, 0, 3, 3], [5.5, 5, 9, 5, 9, 9, 5, 9]],
    ]
    annotations = [
        {"id": n, "image_id": 2 * n + 1, "category_id": 7, "bbox": bbox, "segmentation": shapes[n]}
        for n, bbox in enumerate(([1, 1, 7, 5.5], [1, 0, 2, 20], [0, 0, 24, 20], [0, 0, 9, 9]))
    ]
    for image in images[::2]:
        image |= {"width": 24, "height": 20}
    table = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "Mass"}]}
    (root / "coco.json").write_text(json.dumps(table))
    masks = {"1": shapes[1], "3": {"size": [20, 24], "counts": "0P?"}, "5": {"size": [40, 48], "counts": [1920]}}
    (root / "masks.json").write_text(json.dumps({key: {"Mass": mask, "Edema": mask} for key, mask in masks.items()}))


def _folder(file: str, **options: Any) -> Parser:
    def make(root: Path) -> Path:
        _write_folder(root)
        return root / file

    def read(path: Path) -> None:
        given = {"images": "images", "patient_column": "patient", "split_column": "split", **options}
        root = path.parent.parent if path.parent.name == "images" else path.parent
        audit_folder(root, ("No Finding", "Mass"), given, "multiclass")
        splits = folder(classes=("No Finding", "Mass"), input_size=16, data_root=root, options=given)
        for split in (splits.train, splits.val, splits.test):
            for index in range(len(split)):
                split.regions(index)
            _ = split[0] if len(split) else None

    return Parser(make, read, text=not file.endswith(".png"))


def _copied(source: Path, read: Callable[[Path], Any]) -> Parser:
    def make(root: Path) -> Path:
        (root / source.name).write_bytes(source.read_bytes())
        return root / source.name

    return Parser(make, read)


def _image(suffix: str, **options: Any) -> Parser:
    def make(root: Path) -> Path:
        path = root / f"image.{suffix}"
        pixels = (np.add.outer(np.arange(24), np.arange(24)) * 5).astype(np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return path

    def read(path: Path) -> None:
        inspect(str(path), decode=True)
        decode(path, 16)

    return Parser(make, read, text=False)


def _tagged() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


def _header(suffix: str, **options: Any) -> Parser:
    def make(root: Path) -> Path:
        path = root / f"image.{suffix}"
        pixels = (np.add.outer(np.arange(24), np.arange(24)) * 5).astype(np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return path

    def read(path: Path) -> None:
        header = read_header(path)
        turn(read_values(path).values, header.orientation)

    return Parser(make, read, text=False)


def _map(suffix: str, content: Callable[[], bytes]) -> Parser:
    def make(root: Path) -> Path:
        path = root / f"a_Mass.{suffix}"
        path.write_bytes(content())
        return path

    return Parser(make, read_map, text=False)


def _bytes_of(write: Callable[[io.BytesIO], Any]) -> bytes:
    kept = io.BytesIO()
    write(kept)
    return kept.getvalue()


def _state(suffix: str) -> Parser:
    state = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3)}

    def make(root: Path) -> Path:
        path = root / f"weights.{suffix}"
        path.write_bytes(save(state) if suffix == "safetensors" else _bytes_of(lambda file: torch.save(state, file)))
        return path

    return Parser(make, read_state_dict, text=False)


def _write_checkpoint(root: Path) -> Path:
    path = root / "tiny.safetensors"
    path.write_bytes(save({"weight": torch.ones(2, 3)}))
    making = Making("gcm", ("a", "b"), "multiclass", 64, {"x": 1}, {"epochs": 2}, {"train": "f" * 8, "val": "e" * 8})
    table = {"hash": making.hash, "making": making.__dict__, "history": [{"epoch": 1, "loss": 0.5, "auc": None}]}
    path.with_suffix(".json").write_text(json.dumps({**table, "encoder_sha256": "ab", "versions": {}, "seconds": 1.0}))
    return path


class _Head(torch.nn.Linear):
    """Takes a state as a classifier does, and has weights of nowhere."""

    class weights:
        sha256 = "ab"
        source = "by hand"

    def load_trained_state(self, state: Any) -> None:
        self.load_state_dict(state)


def _load_weights(path: Path) -> None:
    checkpoint = Checkpoint(path, read_checkpoint(path.with_suffix(".json").with_suffix(".safetensors")).making)
    head: Any = _Head(3, 2, bias=False)
    load_weights(head, Checkpoint(path, checkpoint.making, encoder_sha256="ab"))


@cache
def _a_run() -> tuple[Run, dict[str, bytes]]:
    """Return a run, kept in memory as the bytes of its files."""
    import tempfile

    with tempfile.TemporaryDirectory() as kept:
        benchmark = tiny_benchmark()
        labels = np.eye(len(benchmark.classes), dtype=np.int64)
        run = saved_run(Path(kept), benchmark, "gcm", labels * 2.0, labels)
        few = [score for score in run.scores if score.metric in ("roc_auc", "hit_rate")]
        run = Run(**{**run.__dict__, "scores": tuple(few)})
        table = run.images()
        rows = table[table["metric"].isin(["hit_rate", "energy"])]
        save_run(run, [rows], run.predictions())
        return run, {path.name: path.read_bytes() for path in Path(kept).iterdir()}


def _run(file: str, read: Callable[[Path], Any]) -> Parser:
    def make(root: Path) -> Path:
        for name, content in _a_run()[1].items():
            (root / name).write_bytes(content)
        return root / file

    return Parser(make, read, text=file.endswith("json"))


def _make_ratings(root: Path) -> Path:
    for name, content in _a_run()[1].items():
        (root / name).write_bytes(content)
    items = Run.load(root).images()[["image", "class", "explainer"]].drop_duplicates().astype(str).to_numpy().tolist()
    lines = [",".join([*item, "ann", ("hit", "miss", "")[n % 3]]) for n, item in enumerate(items)]
    (root / "ann.csv").write_text("\n".join(["image,class,explainer,rater,rating", *lines]) + "\n")
    return root / "ann.csv"


def _make_result(root: Path) -> Path:
    run = _a_run()[0]
    spec = run.benchmark.classifier("gcm")
    table = {
        "format": 1,
        "id": "0" * 12,
        "benchmark": run.benchmark.model_dump(mode="json"),
        "benchmark_hash": run.benchmark.hash,
        "classifier": "gcm",
        "classifier_options": {},
        "recipe": spec.recipe.model_dump(mode="json"),
        "explainers": ["cwm"],
        "baselines": ["random"],
        "weights": {"sha256": "a", "source": "b", "recipe_hash": "c"},
        "data": {"train": "1", "val": "2", "test": "3"},
        "test": {"images": 8, "patients": 8},
        "versions": {"xaibench": "0"},
        "boxed_in_training": 0,
        "scores": [score.to_json() for score in run.scores[:4]],
    }
    (root / "result.json").write_text(json.dumps(table))
    return root / "result.json"


def _read_result(path: Path) -> None:
    read_results(path.parent)  # names the files that it turns away
    try:
        read_result(path)
    except TurnedAwayError as error:
        raise TurnedAwayError(f"{path.name}: {error}") from error


def _make_pins(root: Path) -> Path:
    (root / PINS).write_text(json.dumps({"tiny": {"train": "1" * 8, "val": "2" * 8, "test": "3" * 8}}))
    return root / PINS


def _tensor_map() -> bytes:
    return _bytes_of(lambda file: torch.save({"map": torch.from_numpy(RAMP)[None, None]}, file))


PARSERS: dict[str, Parser] = {
    "entries": _release("Data_Entry_2017_v2020.csv"),
    "boxes": _release("BBox_List_2017.csv"),
    "train_val": _release("train_val_list_NIH.txt"),
    "test": _release("test_list_NIH.txt"),
    "folder-csv": _folder("labels.csv", table="labels.csv", boxes="boxes.csv"),
    "folder-boxes": _folder("boxes.csv", table="labels.csv", boxes="boxes.csv"),
    "folder-coco": _folder("coco.json", coco="coco.json"),
    "folder-masks": _folder("masks.json", table="labels.csv", masks="masks.json"),
    "folder-image": _folder("images/1.png", coco="coco.json", color=True),
    "folder-stored": _folder("images/1.png", coco="coco.json", range="stored"),
    "header-png": _header("png", exif=_tagged()),
    "header-jpeg": _header("jpg", exif=_tagged(), quality=90),
    "header-tiff": _header("tif", tiffinfo={274: 6}),
    "benchmark": _copied(phantom, read_benchmark),
    "published": _copied(FOLDER / "published" / "chestxray8-4class.toml", read_published),
    "png": _image("png"),
    "jpeg": _image("jpg", format="JPEG"),
    "tiff": _image("png", format="TIFF", compression="tiff_lzw"),
    "bmp": _image("png", format="BMP"),
    "gif": _image("png", format="GIF"),
    "webp": _image("png", format="WEBP"),
    "jp2": _image("png", format="JPEG2000"),
    "ppm": _image("png", format="PPM"),
    "map-npy": _map("npy", lambda: _bytes_of(lambda file: np.save(file, RAMP))),
    "map-png": _map("png", lambda: _bytes_of(lambda f: Image.fromarray(RAMP.astype(np.uint8)).save(f, format="PNG"))),
    "map-pickle": _map("pkl", lambda: pickle.dumps({"map": RAMP, "prob": np.float32(0.5), "task": "Mass"})),
    "map-pickle-0": _map("pkl", lambda: pickle.dumps(RAMP, protocol=0)),
    "map-pickled-tensor": _map("pkl", lambda: pickle.dumps({"map": torch.from_numpy(RAMP)})),
    "map-saved-tensor": _map("pkl", _tensor_map),
    "safetensors": _state("safetensors"),
    "pth": _state("pth"),
    "checkpoint": Parser(_write_checkpoint, _load_weights, text=False),
    "checkpoint-json": Parser(
        lambda root: _write_checkpoint(root).with_suffix(".json"),
        lambda path: read_checkpoint(path.with_suffix(".safetensors")),
    ),
    "run": _run("run.json", lambda path: Run.load(path.parent)),
    "scores": _run("scores.parquet", lambda path: Run.load(path.parent).images()),
    "predictions": _run("predictions.parquet", lambda path: Run.load(path.parent).predictions()),
    "ratings": Parser(_make_ratings, lambda path: read_ratings([path], Run.load(path.parent))),
    "result": Parser(_make_result, _read_result),
    "pins": Parser(_make_pins, lambda path: read_pins(path.parent)),
}
