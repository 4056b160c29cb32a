"""Names in tables stay in the data root, names of benchmarks in their folder, and names on a terminal are text."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.fuzz.parsers import _write_folder
from tests.tiny import tiny_benchmark
from xaibench import cli
from xaibench.benchmark import Benchmark, read_benchmark
from xaibench.cli.output import print_table, printable
from xaibench.cli.progress import progress_bars
from xaibench.datasets.folder import folder
from xaibench.errors import BenchmarkError, DataError, UsageError
from xaibench.io.limits import check_name

OUTSIDE = (
    "../a.png",
    "b/../../a.png",
    "/etc/a.png",
    "..\\a.png",
    "C:\\a.png",
    "C:a.png",
    "\\\\host\\a.png",
    "a\x1b.png",
)
CLASSES = ("No Finding", "Mass")


@pytest.mark.parametrize("name", [*OUTSIDE, "", " ", "a\x00.png", "a\n.png", "..", None, 7, ["a.png"], "a" * 2000])
def test_names_that_leave_the_folder(name: Any) -> None:
    with pytest.raises(ValueError, match="is not the name of a file in the folder"):
        check_name(name)


@pytest.mark.parametrize("name", ["a.png", "b/a.png", "..a.png", "a..png", "Röntgen 1.png", "./a.png", "ab:c.png.."])
def test_names_that_stay(name: str) -> None:
    assert check_name(name) == name


def load(root: Path, **options: Any) -> Any:
    given = {"images": "images", "split_column": "split", **options}
    return folder(classes=CLASSES, input_size=16, data_root=root, options=given)


@pytest.mark.parametrize("name", OUTSIDE)
def test_tables_can_not_name_images_outside_the_data_root(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    _write_folder(root)
    (tmp_path / "a.png").write_bytes((root / "images" / "0.png").read_bytes())
    (root / "a.png").write_bytes((root / "images" / "0.png").read_bytes())
    labels = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(labels.replace("\n3.png,", f"\n{name},"))
    with pytest.raises(DataError, match=r"labels\.csv:5: '.*' is not the name of a file in the folder of images"):
        load(root, table="labels.csv")
    table = json.loads((root / "coco.json").read_text())
    table["images"][3]["file_name"] = name
    (root / "coco.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"coco\.json: image 3: '.*' is not the name of a file in the folder of images"):
        load(root, coco="coco.json")


@pytest.mark.parametrize("option", ["table", "coco", "boxes", "images"])
def test_options_can_not_either(option: str, tmp_path: Path) -> None:
    _write_folder(tmp_path)
    with pytest.raises(UsageError, match=f"folder: {option}: '../x' is not the name .* looked for in the data root"):
        load(tmp_path, **{"table": "" if option == "coco" else "labels.csv", option: "../x"})


def test_links_that_the_user_made_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    _write_folder(root)
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "0.png").rename(tmp_path / "0.png")
    (tmp_path / "elsewhere" / "0.png").symlink_to(tmp_path / "0.png")
    assert load(root, table="labels.csv").train[0].image.shape == (1, 16, 16)


@pytest.mark.parametrize("name", ["../evil", "a/b", "a\\b", ".hidden", "", "a\x1b[31m", "a" * 101])
def test_a_benchmark_s_name_can_not_leave_the_folder_of_runs_and_checkpoints(name: str, tmp_path: Path) -> None:
    table = tiny_benchmark().model_dump(mode="json")
    with pytest.raises(ValueError, match="a name without slashes"):
        Benchmark.model_validate({**table, "name": name})
    if "\x1b" not in name:
        text = (
            f'name = {json.dumps(name)}\nclasses = ["a", "b"]\ninput_size = 64\nmetrics = []\n[dataset]\nname = "x"\n'
        )
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(BenchmarkError, match=r"a\.toml: name = "):
            read_benchmark(tmp_path / "a.toml")


NAMED = "[red]x[/red]\x1b[31m\u202e"
SHOWN = r"[red]x[/red]\x1b[31m\u202e"


def test_text_for_a_terminal() -> None:
    assert printable(NAMED) == SHOWN
    assert printable("Größe\n\t✓") == "Größe\n\t✓"
    assert printable("\x9b31m\x07\x7f") == r"\x9b31m\x07\x7f"


@pytest.mark.parametrize("terminal", [True, False])
def test_tables_show_names_as_text(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    monkeypatch.setattr("xaibench.cli.output.is_terminal", lambda: terminal)
    monkeypatch.setattr("xaibench.cli.output.console", lambda: Console(file=out, width=100, markup=False, emoji=False))
    print_table({"name": "name", "is": "text"}, [[NAMED, f"a {NAMED}"]], title=f"of {NAMED}")
    said = out.getvalue() if terminal else capsys.readouterr().out
    assert said.count(SHOWN) == (3 if terminal else 2)
    assert "\x1b[31m" not in said


def test_progress_shows_names_as_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress.say(NAMED)
    assert SHOWN in capsys.readouterr().err
    err = io.StringIO()
    monkeypatch.setattr(err, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bars() as progress:
        progress.stage(NAMED, 3)
        progress.metric(NAMED, 1, 3, 1.0)
        progress.say(NAMED)
    said = err.getvalue()
    assert said.count(SHOWN) >= 2
    assert "\u202e" not in said
    assert "x\x1b[31m" not in said


def test_plugins_and_errors_show_names_as_text(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "odd", {"xaibench.metrics": "[b]red\x1b[31m = odd_metric:metric"}, odd_metric="raise OSError('\x1b[31m[i]')"
    )
    assert cli.main(["list", "metrics", "--check"]) == 1
    assert cli.main(["show", "[b]red\x1b[31m"]) in (0, 1)
    assert cli.main(["show", "\x1b[31mnone"]) == 2
    assert cli.main(["compare", "\x1b[31mnone"]) == 2
    said = capsys.readouterr()
    assert r"[b]red\x1b[31m" in said.out
    assert r"OSError: \x1b[31m[i]" in said.out
    assert r"\x1b[31mnone" in said.err
    assert "\x1b[31mnone" not in said.err
    assert "red\x1b" not in said.out
