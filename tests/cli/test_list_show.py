"""`xaibench list`, `show` and the frame around all subcommands."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from xaibench import __version__, registry
from xaibench.cli import app
from xaibench.cli.app import main
from xaibench.cli.output import plain_table, reflow
from xaibench.errors import DataError, UsageError

Install = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def xb(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def plugin(install: Install) -> Path:
    source = '''
class Shiny:
    """Shines [red]brightly[/red].

    Args:
        size: of it.
    """
    def __init__(self, size: int, *, sigma: float = float("inf"), names: tuple[str, ...] = ("a",)) -> None: ...
'''
    points = "shiny = shiny_mod:Shiny\nsad = sad_mod:Thing"
    sad = "print('noise'); raise RuntimeError('boom')"
    return install("good-pkg", {"xaibench.explainers": points}, shiny_mod=source, sad_mod=sad)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `xaibench run` a command that raises."""

    def arrange(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        module = ModuleType("xaibench.cli.run")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "xaibench.cli.run", module)
        monkeypatch.setattr(app.LazyGroup, "list_commands", lambda self, ctx: ["run", "list"])

    return arrange


class TestList:
    def test_plain_lines_into_a_pipe(self, xb: Run, plugin: Path) -> None:
        code, out, err = xb("list")
        assert (code, err) == (0, "noise\n")  # what a plugin prints while it is imported
        lines = out.splitlines()
        assert lines[0].split() == ["kind", "name", "what", "it", "is", "package", "state"]
        (cam,) = (line for line in lines if line.startswith("explainer   cam "))
        assert cam.split()[-3:] == ["xaibench", __version__, "ok"]
        (sad,) = (line for line in lines if line.startswith("explainer   sad "))
        assert "RuntimeError: boom" in sad
        assert sad.split()[-3:] == ["good-pkg", "1.0", "broken"]
        assert {line.split()[0] for line in lines[1:]} == {k.singular for k in registry.Kind}

    def test_markup_in_a_docstring_is_text(self, xb: Run, plugin: Path) -> None:
        assert "Shines [red]brightly[/red]." in xb("list", "explainers")[1]

    @pytest.mark.parametrize("kind", ["explainer", "explainers"])
    def test_kind_and_pattern(self, xb: Run, kind: str) -> None:
        _, out, _ = xb("list", kind, "--pattern", "*prior*")
        assert [line.split()[1] for line in out.splitlines()[1:]] == ["oracle_prior_box", "prior_box"]

    def test_nothing_matches(self, xb: Run) -> None:
        assert xb("list", "metrics", "--pattern", "zzz*")[::2] == (0, "No metric matches 'zzz*'.\n")

    def test_json(self, xb: Run, plugin: Path) -> None:
        code, out, _ = xb("list", "explainers", "--json")
        found = {p["name"]: p for p in json.loads(out)["plugins"]}  # what the plugin printed is not in it
        assert code == 0
        assert found["shiny"] == {
            "kind": "explainers",
            "name": "shiny",
            "description": "Shines [red]brightly[/red].",
            "target": "shiny_mod:Shiny",
            "distribution": "good-pkg",
            "version": "1.0",
            "state": "ok",
            "reason": None,
        }
        assert (found["sad"]["state"], found["sad"]["reason"]) == ("broken", "RuntimeError: boom")

    def test_check_fails_when_one_is_broken(self, xb: Run, plugin: Path) -> None:
        assert xb("list", "explainers", "--pattern", "sad", "--check")[0] == 1
        assert xb("list", "explainers", "--pattern", "shiny", "--check")[0] == 0

    def test_collision_names_both_packages(self, xb: Run, plugin: Path, install: Install) -> None:
        install("other-pkg", {"xaibench.explainers": "shiny = shiny_mod:Shiny"})
        code, out, _ = xb("list", "explainers", "--pattern", "shiny")
        assert code == 0
        assert out.count("claimed by good-pkg 1.0 and by other-pkg 1.0") == 2

    @pytest.mark.parametrize("width", [80, 160])
    def test_fits_a_terminal(self, width: int) -> None:
        out = in_terminal(width, "list")
        assert "explainers" in out.split()
        assert "ccm_contrast" in out
        assert max(map(len, out.splitlines())) <= width


class TestShow:
    def test_class(self, xb: Run, plugin: Path) -> None:
        code, out, _ = xb("show", "shiny")
        assert code == 0
        assert out.startswith("explainer shiny\ngood-pkg 1.0, shiny_mod:Shiny\n\nShines [red]brightly[/red].\n")
        assert [line.split() for line in out.splitlines()[-4:]] == [
            ["parameter", "type", "default"],
            ["size", "int", "required"],
            ["sigma", "float", "'inf'"],
            ["names", "tuple[str,", "...]", "['a']"],
        ]

    def test_a_metric_says_all_that_a_reader_needs(self, xb: Run) -> None:
        facts = json.loads(xb("show", "hit_rate", "--json")[1])["plugins"][0]["facts"]
        assert facts["formula"].startswith("Is the map's largest value in the mask?")
        assert (facts["direction"], facts["range"], facts["chance"]) == (
            "higher",
            [0.0, 1.0],
            "computed for each image",
        )
        assert "Zhang et al. 2016" in facts["reference"]

    def test_json(self, xb: Run, plugin: Path) -> None:
        (shown,) = json.loads(xb("show", "shiny", "--json")[1])["plugins"]
        assert (shown["kind"], shown["state"]) == ("explainers", "ok")
        assert shown["parameters"][0] == {"name": "size", "type": "int", "required": True, "default": None}

    def test_broken(self, xb: Run, plugin: Path) -> None:
        code, out, _ = xb("show", "sad")
        assert code == 1
        assert "broken: RuntimeError: boom" in out

    def test_a_benchmark_with_its_toml(self, xb: Run, install: Install) -> None:
        source = "from pathlib import Path\na = Path(__file__).parent / 'a.toml'\n"
        folder = install("bench-pkg", {"xaibench.benchmarks": "mine = paths:a"}, paths=source).parent
        toml = (
            "name = 'mine'\ntitle = 'My own'\nclasses = ['a', 'b']\ninput_size = 64\nmetrics = [{ name = 'energy' }]\n"
        )
        (folder / "a.toml").write_text(toml + "[dataset]\nname = 'phantom'\n")
        code, out, _ = xb("show", "mine")
        assert code == 0, out
        assert "My own" in out
        assert "classes      a, b" in out
        assert toml in out
        (folder / "a.toml").write_text(toml + "[datset]\n")
        code, out, _ = xb("show", "mine")
        assert code == 1
        assert "broken: " in out

    def test_a_name_of_several_kinds(self, xb: Run, install: Install) -> None:
        points = {"xaibench.datasets": "same = same_mod:f", "xaibench.metrics": "same = same_mod:f"}
        install("same-pkg", points, same_mod="def f(alpha=0.5): 'Does.'")
        assert xb("show", "same")[1].count("Does.") == 2
        assert xb("show", "same", "--kind", "metric")[1].count("Does.") == 1

    def test_unknown(self, xb: Run) -> None:
        assert xb("show", "gradcan") == (2, "", "error: there is no plugin 'gradcan'. Did you mean 'gradcam'?\n")
        assert xb("show", "cam", "--kind", "metrics")[0] == 2

    def test_declared_parameters_and_pydantic_fields(self, xb: Run, install: Install) -> None:
        source = """
from pydantic import BaseModel
class Options(BaseModel):
    size: int
    sides: list[int] = [1]
class Declared:
    direction = "higher"
    parameters = {"tolerance": 15.0}
    range = (0.0, 1.0)
declared = Declared()
"""
        install("p-pkg", {"xaibench.metrics": "opts = p_mod:Options\ndecl = p_mod:declared"}, p_mod=source)
        (options,) = json.loads(xb("show", "opts", "--json")[1])["plugins"]
        assert [(p["name"], p["required"], p["default"]) for p in options["parameters"]] == [
            ("size", True, None),
            ("sides", False, [1]),
        ]
        (declared,) = json.loads(xb("show", "decl", "--json")[1])["plugins"]
        assert declared["facts"] == {"direction": "higher", "range": [0.0, 1.0]}
        assert declared["parameters"] == [{"name": "tolerance", "type": "float", "required": False, "default": 15.0}]


class TestFrame:
    def test_help_names_only_commands_that_exist(self, xb: Run) -> None:
        code, out, _ = xb("--help")
        assert code == 0
        assert "list" in out
        folder = Path(app.__file__).parent
        for name in app.COMMANDS:
            exists = (folder / f"{name}.py").is_file() or (folder / name).is_dir()
            assert (f"\n  {name} " in out) == exists

    def test_version(self, xb: Run) -> None:
        assert xb("--version")[:2] == (0, f"xaibench, version {__version__}\n")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["lst"], "error: there is no command 'lst'. Did you mean 'list'? See xaibench --help.\n"),
            (["list", "--jsn"], "error: No such option"),
            (["list", "explaners"], "error: there is no kind of plugin 'explaners'. Did you mean 'explainers'?\n"),
            (["show"], "error: Missing argument 'NAME'. See xaibench show --help.\n"),
        ],
    )
    def test_wrong_use_is_one_line_and_code_2(self, xb: Run, arguments: list[str], message: str) -> None:
        code, out, err = xb(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(message)
        assert err.count("\n") == 1

    def test_no_command_shows_the_help(self, xb: Run) -> None:
        code, out, err = xb()
        assert code == 2
        assert "Commands:" in out + err

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (DataError("a.csv: column 'x' is missing:\n  add it"), 1, "error: a.csv: column 'x' is missing: add it"),
            (UsageError("no such option"), 2, "error: no such option"),
            (KeyboardInterrupt(), 130, "error: interrupted"),
            (
                OSError(errno.ENOSPC, "No space left on device", "/data/run.json"),
                1,
                "error: no space left on device (/data/run.json): free some, then run the same command again.",
            ),
            (PermissionError(errno.EACCES, "Permission denied", "/data"), 1, "error: Permission denied (/data)"),
            (ZeroDivisionError("by\nzero"), 1, "error: ZeroDivisionError: by zero. Not expected: --debug shows"),
        ],
    )
    def test_an_error_is_one_line_and_a_code(
        self, xb: Run, failing: Callable[[BaseException], None], error: BaseException, code: int, line: str
    ) -> None:
        failing(error)
        found, out, err = xb("run")
        assert (found, out) == (code, "")
        assert err.strip().startswith(line)
        assert len(err.strip().splitlines()) == 1

    @pytest.mark.parametrize("arguments", [["--debug", "run"], ["run", "--debug"]])
    def test_debug_adds_the_traceback(
        self, xb: Run, failing: Callable[[BaseException], None], arguments: list[str]
    ) -> None:
        failing(DataError("a.csv is damaged"))
        code, _, err = xb(*arguments)
        assert code == 1
        assert err.startswith("Traceback (most recent call last):")
        assert err.endswith("error: a.csv is damaged\n")

    def test_a_reader_that_goes_away_is_no_error(self) -> None:
        read, write = os.pipe()
        os.close(read)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "xaibench", "list"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
            )
        finally:
            os.close(write)
        assert done.stderr == ""
        assert done.returncode == 1

    @pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["list", "--help"], ["--version"]])
    def test_imports_no_heavy_library(self, arguments: list[str]) -> None:
        code = (
            "import sys; from xaibench.cli import main; code = main(sys.argv[1:]);"
            "heavy = {'torch', 'timm', 'pandas', 'matplotlib', 'sklearn', 'lightning'} & set(sys.modules);"
            "sys.exit(f'imported {heavy}' if heavy or code else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_reflow_keeps_code_and_joins_what_the_source_broke() -> None:
    doc = f"{'word ' * 20}\ngoes on.\n\nArgs:\n    a: one.\n    b: two.\n\n>>> f(1, 2, 3, 4, 5, 6, 7, 8)\n36"
    lines = reflow(doc, 30).splitlines()
    assert "goes on." in " ".join(lines)
    assert lines[-6:] == ["Args:", "    a: one.", "    b: two.", "", ">>> f(1, 2, 3, 4, 5, 6, 7, 8)", "36"]
    assert all(len(line) <= 30 for line in lines)


def test_plain_table_flattens_cells() -> None:
    assert plain_table(["a", "b"], [["x\ny", "z"]]) == ["a    b", "x y  z"]


def in_terminal(width: int, *arguments: str) -> str:
    """Run in a pseudo-terminal and return what it shows, without colours."""
    primary, secondary = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "dumb", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "xaibench", *arguments], stdout=secondary, stderr=secondary, env=environment
    ) as process:
        os.close(secondary)
        chunks = []
        try:
            while chunk := os.read(primary, 4096):
                chunks.append(chunk)
        except OSError:  # Linux: the other end was closed
            pass
        finally:
            os.close(primary)
    assert process.returncode == 0
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that takes nothing")
def test_an_error_that_cannot_be_written_is_told_by_the_exit_code() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "xaibench", "show", "no-such-thing"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
