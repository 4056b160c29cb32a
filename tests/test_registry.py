"""The registry: entry points of real (fake) distributions on sys.path, in process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xaibench
from xaibench import plugin_status, registry
from xaibench.errors import PluginError, UsageError
from xaibench.registry import Kind

Install = Callable[..., Path]


def status_of(name: str, kind: str = "explainers", **options: bool) -> list[plugin_status.Status]:
    return [s for s in plugin_status.statuses(kind, **options) if s.entry.name == name]


def test_built_ins_come_from_the_metadata_of_xaibench() -> None:
    entry = registry.get("explainers", "gradcam")
    assert (entry.distribution, entry.version) == ("xaibench", xaibench.__version__)
    assert entry.target == "xaibench.explainers.cam:GradCAM"
    assert entry.is_builtin
    assert entry.argument is None


@pytest.mark.parametrize("kind", [*Kind])
def test_entries_are_sorted_and_of_their_kind(kind: Kind) -> None:
    found = registry.entries(kind)
    assert found
    assert [e.name for e in found] == sorted(e.name for e in found)
    assert {e.kind for e in found} == {kind}


def test_what_follows_the_colon_is_the_argument() -> None:
    entry = registry.get("classifiers", "timm:hf-hub:some/model")
    assert (entry.name, entry.argument, entry.full_name) == ("timm", "hf-hub:some/model", "timm:hf-hub:some/model")


def test_a_colon_with_nothing_behind_it_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing follows the colon"):
        registry.get("classifiers", "timm:")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("explainers", "gradcan", "there is no explainer 'gradcan'. Did you mean 'gradcam'?"),
        ("classifiers", "tim:resnet50", "there is no classifier 'tim'. Did you mean 'timm'?"),
        ("dataset", "zzz", "there is no dataset 'zzz'. Known: chestxray8, folder, phantom."),
    ],
)
def test_unknown_name_says_what_is_near(kind: str, name: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        registry.get(kind, name)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_unknown_kind() -> None:
    with pytest.raises(UsageError, match=r"no kind of plugin 'explaners'. Did you mean 'explainers'\?"):
        registry.entries("explaners")


def test_wildcards() -> None:
    assert xaibench.list_explainers("*prior_box") == ["oracle_prior_box", "prior_box"]
    assert xaibench.list_benchmarks("chestxray8-sample*") == ["chestxray8-sample", "chestxray8-sample-pneumonia"]
    assert xaibench.list_metrics("no such*") == []
    assert "gcm" in xaibench.list_classifiers()


def test_a_plugin_of_another_distribution_is_imported_when_it_is_loaded(install: Install) -> None:
    install("good-pkg", {"xaibench.explainers": "shiny = good_mod:Outer.Inner"}, good_mod="class Outer:\n  Inner = 7\n")
    entry = registry.get("explainers", "shiny")
    assert entry.package == "good-pkg 1.0"
    assert entry.load() == 7
    assert "shiny" in xaibench.list_explainers()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('boom\\nand more')", "RuntimeError: boom and more"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def broken(:", "SyntaxError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("pass", "AttributeError: module 'bad_mod' has no attribute 'Thing'"),
    ],
)
def test_a_broken_plugin_is_one_line_and_hurts_nobody(install: Install, source: str, reason: str) -> None:
    install("bad-pkg", {"xaibench.explainers": "sad = bad_mod:Thing"}, bad_mod=source)
    with pytest.raises(PluginError) as caught:
        registry.get("explainers", "sad").load()
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("explainer 'sad'", "bad-pkg 1.0", reason, "uninstall"))

    (status,) = status_of("sad")
    assert status.state == "broken"
    assert status.reason is not None
    assert reason in status.reason
    assert registry.get("explainers", "cam").name == "cam"
    assert "cam" in xaibench.list_explainers()


def test_a_name_claimed_by_two_distributions_is_an_error_only_when_it_is_used(install: Install) -> None:
    install("first-pkg", {"xaibench.explainers": "twin = first_mod:a\nlone = first_mod:a"}, first_mod="a = 1")
    install("second-pkg", {"xaibench.explainers": "twin = second_mod:b"}, second_mod="b = 2")
    assert registry.get("explainers", "lone").load() == 1
    with pytest.raises(PluginError, match=r"'twin' is claimed by first-pkg 1\.0 and by second-pkg 1\.0") as caught:
        registry.get("explainers", "twin")
    assert caught.value.exit_code == 1
    assert "twin" not in xaibench.list_explainers()
    found = status_of("twin")
    assert {s.entry.distribution for s in found} == {"first-pkg", "second-pkg"}
    assert {s.state for s in found} == {"broken"}


def test_a_plugin_cannot_take_a_built_in_name_unseen(install: Install) -> None:
    install("greedy-pkg", {"xaibench.explainers": "cam = greedy:cam"}, greedy="cam = 1")
    with pytest.raises(PluginError, match=r"greedy-pkg 1\.0 and by xaibench"):
        registry.get("explainers", "cam")


def test_the_same_name_in_two_kinds_is_no_collision(install: Install) -> None:
    install("two-pkg", {"xaibench.datasets": "gcm = two_mod:a"}, two_mod="a = 1")
    assert registry.get("datasets", "gcm").distribution == "two-pkg"
    assert registry.get("classifiers", "gcm").distribution == "xaibench"


def test_metadata_of_one_distribution_found_twice_is_no_collision(install: Install, tmp_path: Path) -> None:
    install("my.pkg", {"xaibench.explainers": "once = once_mod:a"}, once_mod="a = 1")
    # as an editable install leaves it: the same project, spelt as setuptools does
    install("my_pkg", {"xaibench.explainers": "once = once_mod:a"}, suffix="egg-info")
    assert registry.get("explainers", "once").load() == 1


def test_damaged_metadata_of_another_package_is_skipped(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    folder = install("odd-pkg", {"xaibench.explainers": "x = y:z"})
    (folder / "entry_points.txt").write_text("[xaibench.explainers\nx = y:z\n")
    (folder / "METADATA").write_bytes(b"Name: odd-\xff\xfe\n")
    registry.refresh()
    assert registry.get("explainers", "cam").is_builtin
    assert "x" not in xaibench.list_explainers()
    assert "metadata can't be read" in caplog.text


class TestRegister:
    def test_lives_in_this_process(self) -> None:
        registry.register("metrics", "mine", test_wildcards)
        try:
            entry = registry.get("metrics", "mine")
            assert entry.load() is test_wildcards
            assert entry.package == "this session"
            assert "mine" in xaibench.list_metrics()
            registry.register("metrics", "mine", test_unknown_kind)  # a notebook's cell runs again
            assert registry.get("metrics", "mine").load() is test_unknown_kind
            (status,) = status_of("mine", "metrics")
            assert status.state == "ok"
        finally:
            registry.unregister("metrics", "mine")
        assert "mine" not in xaibench.list_metrics()

    def test_does_not_replace_an_installed_plugin(self) -> None:
        with pytest.raises(PluginError, match="already there, from xaibench"):
            registry.register("explainers", "cam", object)

    @pytest.mark.parametrize("name", ["", "a:b"])
    def test_refuses_names_that_cannot_be_asked_for(self, name: str) -> None:
        with pytest.raises(UsageError, match="no colon"):
            registry.register("explainers", name, object)


class TestStatus:
    def test_description_of_a_built_in_is_read_without_an_import(self) -> None:
        (status,) = status_of("cam")
        assert status.state == "ok"
        assert status.description.startswith("Class activation map")

    def test_success_is_remembered_until_the_file_changes(self, install: Install, tmp_path: Path) -> None:
        source = (
            "'''Doc.'''\nfrom pathlib import Path\nwith (Path(__file__).parent / 'log').open('a') as f: f.write('x')\n"
        )
        source += "class Shiny:\n  '''Shines.\n\n  More.'''\n"
        folder = install("good-pkg", {"xaibench.explainers": "shiny = logged:Shiny"}, logged=source)
        log = folder.parent / "log"

        def listed() -> plugin_status.Status:
            __import__("sys").modules.pop("logged", None)  # each listing is a process of its own
            (status,) = status_of("shiny")
            return status

        assert listed().description == "Shines."
        assert listed() == listed()
        assert log.read_text() == "x"
        (folder.parent / "logged.py").write_text("raise ValueError('now broken, and longer')")
        for _ in range(2):  # a failure is looked at afresh each time
            assert listed().reason == "ValueError: now broken, and longer"

    def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_failure(
        self, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install("good-pkg", {"xaibench.explainers": "shiny = fine_mod:a"}, fine_mod="def a(): 'Fine.'")
        cache = tmp_path / "cache"
        cache.mkdir(exist_ok=True)
        (cache / "plugins.json").write_text('["not what we wrote"')
        assert status_of("shiny")[0].description == "Fine."
        monkeypatch.setenv("XAIBENCH_CACHE", str(cache / "plugins.json" / "below a file"))
        assert status_of("shiny")[0].description == "Fine."

    def test_a_benchmark_plugin_shows_its_title_or_what_is_wrong_with_the_file(self, install: Install) -> None:
        source = "from pathlib import Path\nhere = Path(__file__).parent\na = here / 'a.toml'\nb = here / 'b.toml'\n"
        points = {"xaibench.benchmarks": "bench-a = paths:a\nbench-b = paths:b\nbench-c = paths:c"}
        folder = install("bench-pkg", points, paths=source).parent
        (folder / "a.toml").write_text("title = 'Mine'")
        (folder / "b.toml").write_text("title = ")
        assert status_of("bench-a", "benchmarks")[0].description == "Mine"
        assert "TOMLDecodeError" in (status_of("bench-b", "benchmarks")[0].reason or "")
        assert "no attribute 'c'" in (status_of("bench-c", "benchmarks")[0].reason or "")
        (folder / "a.toml").unlink()
        assert "No such file" in (status_of("bench-a", "benchmarks")[0].reason or "")

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("xaibench.no_such:x", "ModuleNotFoundError: no module named 'xaibench.no_such'"),
            ("xaibench.errors:x", "AttributeError: module 'xaibench.errors' has no attribute 'x'"),
        ],
    )
    def test_a_built_in_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch, target: str, reason: str) -> None:
        entry = registry.Entry(Kind.EXPLAINERS, "ghost", target, "xaibench", "0")
        monkeypatch.setattr(plugin_status, "claims", lambda kind: {"ghost": (entry,)})
        assert status_of("ghost")[0].reason == reason


@given(st.text())
def test_one_line_is_one_short_line(text: str) -> None:
    line = registry.one_line(ValueError(text))
    assert len(line) <= 300
    assert len(line.splitlines()) == 1
    assert line.startswith("ValueError")
