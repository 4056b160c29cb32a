"""``xaibench compare RUN...``: runs, or classifier:explainer pairs, side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xaibench.cli.options import pairs as read_options
from xaibench.cli.options import protocol_options
from xaibench.errors import UsageError, XaibenchError

if TYPE_CHECKING:
    from xaibench.results.comparison.compare import ComparedRuns
    from xaibench.results.run import Run

FORMATS = {"markdown": "Markdown", "latex": "LaTeX (booktabs)", "csv": "CSV", "parquet": "Parquet", "json": "JSON"}


def _outputs(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, title in reversed(FORMATS.items()):
        command = click.option(f"--{name}", metavar="FILE", help=f"Write {title}; - for the output.")(command)
    return command


@click.command(name="compare")
@click.argument("targets", nargs=-1, required=True, metavar="RUN|CLASSIFIER:EXPLAINER...")
@click.option("--against", metavar="NAME", help="The explainer that stands at zero, such as prior_box.")
@click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="A class, macro (their mean; the default), or all."
)
@click.option("--all", "all_points", is_flag=True, help="Every point of a curve, and metrics that are no headline.")
@click.option("--pairs", is_flag=True, help="Every paired difference; CSV and Parquet then hold these.")
@click.option("--alpha", default=0.05, show_default=True, type=float, help="Level of the marks.")
@_outputs
@protocol_options
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Of pairs' runs.")
@click.option(
    "--out",
    default=Path("runs"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the pairs' runs, looked through first.",
)
def command(
    targets: tuple[str, ...],
    against: str | None,
    classes: tuple[str, ...],
    all_points: bool,
    pairs: bool,
    alpha: float,
    benchmark: str,
    data_root: Path | None,
    options: tuple[str, ...],
    recipe: tuple[str, ...],
    device: str,
    quiet: bool,
    batch_size: int,
    out: Path,
    **files: str | None,
) -> None:
    """Compare explainers on the same test images: values against chance, ranks, and differences that survive Holm.

    RUN is a run's directory. A CLASSIFIER:EXPLAINER pair is run by the benchmark first, unless --out has that run.

    \b
    xaibench compare runs/A runs/B --against prior_box
    xaibench compare gcm:cwm densenet121:gradcam --latex table.tex
    """
    to_stdout = [name for name, file in files.items() if file == "-"]
    if len(to_stdout) > 1:
        raise UsageError(
            f"--{to_stdout[0]} - and --{to_stdout[1]} -: the output takes one of them, give the other a file"
        )
    replaced, fields = read_options(options, "--option"), read_options(recipe, "--recipe")
    from xaibench.results.comparison.compare import compare

    runs = _runs(
        targets,
        quiet=quiet or bool(to_stdout),
        benchmark=benchmark,
        data_root=data_root,
        options=replaced,
        recipe=fields,
        device=device,
        batch_size=batch_size,
        out=out,
    )
    found = compare(runs, against=against, classes=classes or ("macro",), all_points=all_points, alpha=alpha)
    for name, file in files.items():
        if file is not None:
            _write(name, file, found, pairs=pairs)
    if not to_stdout:
        from rich.console import Console

        from xaibench.reporting.tables.terminal import print_comparison

        print_comparison(found, Console(), pairs=pairs)


def _runs(targets: tuple[str, ...], *, quiet: bool, out: Path, **protocol: Any) -> list[Run]:
    """Load the runs given, and find or make those of the pairs."""
    from xaibench.results.run import Run

    loaded, wanted = [], []
    for text in targets:
        if Path(text).is_dir():
            loaded.append(Run.load(Path(text)))
        elif ":" in text.strip(":"):
            wanted.append(text)
        else:
            raise UsageError(
                f"{text!r} is no run directory and no pair: give a directory with a run.json, or CLASSIFIER:EXPLAINER "
                "such as gcm:cwm"
            )
    if not wanted:
        return loaded
    from xaibench.cli.progress import progress_bars
    from xaibench.evaluation.pairs import parse_pair, runs_of_pairs

    parsed = [parse_pair(text) for text in wanted]
    with progress_bars(quiet=quiet) as progress:
        return [*loaded, *runs_of_pairs(parsed, out=out, progress=progress, **protocol)]


def _write(name: str, file: str, found: ComparedRuns, *, pairs: bool) -> None:
    content = _render(name, found, pairs=pairs)
    if file == "-":
        if isinstance(content, bytes):
            sys.stdout.buffer.write(content)
        else:
            click.echo(content, nl=False)
        return
    from xaibench.io.files import write_atomically

    path, data = Path(file), content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    if path.is_dir():
        raise UsageError(f"--{name} {file}: that is a folder, give a file in it")
    try:
        write_atomically(path, lambda part: part.write_bytes(data))
    except OSError as error:
        raise XaibenchError(f"can't write {file}: {error.strerror or error}") from error


def _render(name: str, found: ComparedRuns, *, pairs: bool) -> str | bytes:
    from xaibench.reporting.tables import files
    from xaibench.reporting.tables.latex import comparison_latex
    from xaibench.reporting.tables.markdown import comparison_markdown

    if name == "json":
        return files.json_text(files.comparison_json(found))
    writers: dict[str, Callable[..., str | bytes]] = {
        "markdown": comparison_markdown,
        "latex": comparison_latex,
        "csv": files.comparison_csv,
        "parquet": files.comparison_parquet,
    }
    return writers[name](found, pairs=pairs)
