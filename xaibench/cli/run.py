"""``xaibench run CLASSIFIER --explainer NAME``: explain, score, print, keep; with ``--grid FILE`` for many at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from xaibench.cli.options import batch_size_of, engine_options, pairs, protocol_options
from xaibench.cli.output import echo
from xaibench.errors import UsageError, XaibenchError

if TYPE_CHECKING:
    from xaibench.evaluation.engine import Engine

_IN_THE_GRID = ("classifier", "explainers", "metrics", "benchmark", "options", "recipe", "checkpoint")
"""Parameters of the command that a grid file says in their place."""


@click.command(name="run")
@click.argument("classifier", required=False)
@click.option("-e", "--explainer", "explainers", multiple=True, metavar="NAME", help="Once or several times.")
@click.option(
    "--grid",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A TOML file of classifiers, explainers and seeds, in place of CLASSIFIER; what is finished is skipped.",
)
@click.option(
    "-m",
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="In place of the benchmark's: names, wildcards or categories, with commas or several times, or all.",
)
@protocol_options
@engine_options
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), metavar="FILE", help="Trained weights of the same recipe."
)
@click.option(
    "--batch-size",
    default="32",
    show_default=True,
    callback=lambda _, __, text: batch_size_of(text),
    metavar="N",
    help="Images at once, or auto for what fits a GPU's memory; at most 8 where a metric asks the network. "
    "Scores don't depend on it.",
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bf16", "fp16"]),
    help="Of the forward pass, by autocast.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the forward pass (torch.compile; takes a minute).")
@click.option(
    "--decode-workers",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Processes that decode images for a GPU; 0 for threads.",
)
@click.option(
    "--out",
    default=Path("runs"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the run directories.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where predictions, maps and scores are kept and found again; in the cache by default.",
)
@click.option("--no-store", is_flag=True, help="Compute everything anew and keep nothing but the run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_context
def command(
    context: click.Context,
    /,
    classifier: str | None,
    explainers: tuple[str, ...],
    grid: Path | None,
    metrics: tuple[str, ...],
    benchmark: str,
    data_root: Path | None,
    options: tuple[str, ...],
    recipe: tuple[str, ...],
    device: str,
    quiet: bool,
    checkpoint: Path | None,
    batch_size: int | Literal["auto"],
    precision: Literal["float32", "bf16", "fp16"],
    compiled: bool,
    decode_workers: int,
    out: Path,
    store: Path | None,
    no_store: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Explain a benchmark's test images with CLASSIFIER and score the maps.

    Trains the classifier first where no checkpoint of its recipe exists. Interrupted at any time, the same command goes
    on where it stopped; with another metric or explainer it computes only what is new.

    \b
    xaibench run gcm --explainer cwm
    xaibench run densenet121 -e gradcam -e cam --benchmark chestxray8-4class --data-root DIR
    xaibench run densenet121 -e gradcam -m localization -m 'insertion,deletion'
    xaibench run --grid grid.toml --engine ray --address auto
    """
    replaced, fields = pairs(options, "--option"), pairs(recipe, "--recipe")
    if grid is None and classifier is None:
        raise UsageError("CLASSIFIER is missing: xaibench run CLASSIFIER --explainer NAME, or --grid FILE")
    if grid is None and not explainers:
        raise UsageError(f"give at least one --explainer, such as xaibench run {classifier} --explainer gradcam")
    if grid is not None:
        _nothing_beside_the_grid(context)
        from xaibench.studies.grid import read_grid

        read_grid(grid)  # before a cluster is started for nothing
    from xaibench.io.store import default_store

    common = {
        "data_root": data_root,
        "out": out,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
        "compiled": compiled,
        "decode_workers": decode_workers,
        "store": None if no_store else store or default_store(),
    }
    with _engine(device=device, **engine) as opened:
        if grid is not None:
            _run_grid(grid, opened, quiet, as_json, common)
            return
        assert classifier is not None
        settings = {"options": replaced, "recipe": fields, "checkpoint": checkpoint, "metrics": metrics or None}
        _run(classifier, explainers, benchmark, opened, quiet, as_json, {**common, **settings})


def _run(
    classifier: str,
    explainers: tuple[str, ...],
    benchmark: str,
    engine: Engine,
    quiet: bool,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.evaluation.evaluate import evaluate, raise_if_failed

    with progress_bars(quiet=quiet or as_json) as progress:
        run = evaluate(classifier, explainers, benchmark, engine=engine, progress=progress, **settings)
    if as_json:
        print_json(run.to_json())
    else:
        from rich.console import Console

        from xaibench.reporting.tables.run import print_run

        print_run(run, Console())
        assert run.directory is not None
        for sheet in sorted(run.directory.glob("contact-sheet-*.png")):
            echo(f"Contact sheet: {sheet}")
    raise_if_failed(run)


def _run_grid(path: Path, engine: Engine, quiet: bool, as_json: bool, settings: dict[str, Any]) -> None:
    from xaibench.cli.output import print_json, print_table
    from xaibench.cli.progress import progress_bars
    from xaibench.studies.grid import read_grid, run_grid, summary

    grid = read_grid(path)
    with progress_bars(quiet=quiet or as_json) as progress:
        done = list(run_grid(grid, engine=engine, progress=progress, **settings))
    if as_json:
        print_json({"cells": [finished.to_json() for finished in done]})
    else:
        header, rows = summary(done)
        styles = ["name", *["dim"] * (len(header) - 3), "state", "text"]
        bad = [number for number, finished in enumerate(done) if finished.error]
        print_table(dict(zip(header, styles, strict=True)), rows, title=str(path), bad=bad)
    failed = [finished for finished in done if finished.error]
    if failed:
        raise XaibenchError(
            f"{len(failed)} of {len(done)} cells failed, first {failed[0].cell}: {failed[0].error}; the same command "
            "goes on with them"
        )


def _engine(
    engine: str,
    address: str | None,
    workers: int | None,
    cpus_per_worker: float | None,
    gpus_per_worker: float | None,
    threads: int | None,
    device: str,
) -> Engine:
    given = {
        "--address": address,
        "--workers": workers,
        "--cpus-per-worker": cpus_per_worker,
        "--gpus-per-worker": gpus_per_worker,
    }
    if engine == "local":
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} is for Ray's workers: add --engine ray")
    from xaibench.evaluation.engine import make_engine

    cluster = {"address": address, "workers": workers, "cpus": cpus_per_worker, "gpus": gpus_per_worker}
    return make_engine(engine, threads=threads, device=device, **cluster)


def _nothing_beside_the_grid(context: click.Context) -> None:
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in _IN_THE_GRID and source not in (None, click.core.ParameterSource.DEFAULT):
            said = parameter.opts[-1] if isinstance(parameter, click.Option) else "CLASSIFIER"
            raise UsageError(f"{said} stands in the grid file: leave it out beside --grid")
