"""``xaibench run CLASSIFIER --explainer NAME``: explain, score, print, keep."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from xaibench.cli.options import batch_size_of, pairs, protocol_options
from xaibench.cli.output import echo


@click.command(name="run")
@click.argument("classifier")
@click.option(
    "-e", "--explainer", "explainers", multiple=True, required=True, metavar="NAME", help="Once or several times."
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
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), metavar="FILE", help="Trained weights of the same recipe."
)
@click.option(
    "--batch-size",
    default="32",
    show_default=True,
    callback=lambda _, __, text: batch_size_of(text),
    metavar="N",
    help="Images at once, or auto for what fits a GPU's memory. Scores don't depend on it.",
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
    "--workers",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
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
def command(
    classifier: str,
    explainers: tuple[str, ...],
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
    workers: int,
    out: Path,
    store: Path | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Explain a benchmark's test images with CLASSIFIER and score the maps.

    Trains the classifier first where no checkpoint of its recipe exists. Interrupted at any time, the same command goes
    on where it stopped; with another metric or explainer it computes only what is new.

    \b
    xaibench run gcm --explainer cwm
    xaibench run densenet121 -e gradcam -e cam --benchmark chestxray8-4class --data-root DIR
    xaibench run densenet121 -e gradcam -m localization -m 'insertion,deletion'
    """
    replaced, fields = pairs(options, "--option"), pairs(recipe, "--recipe")
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.harness.evaluate import evaluate, raise_if_failed
    from xaibench.harness.store import default_store

    with progress_bars(quiet=quiet or as_json) as progress:
        run = evaluate(
            classifier,
            explainers,
            benchmark,
            data_root=data_root,
            out=out,
            options=replaced,
            recipe=fields,
            checkpoint=checkpoint,
            metrics=metrics or None,
            batch_size=batch_size,
            device=device,
            precision=precision,
            compiled=compiled,
            workers=workers,
            store=None if no_store else store or default_store(),
            progress=progress,
        )
    if as_json:
        print_json(run.to_json())
    else:
        from rich.console import Console

        from xaibench.reports.tables import print_run

        print_run(run, Console())
        assert run.directory is not None
        for sheet in sorted(run.directory.glob("contact-sheet-*.png")):
            echo(f"Contact sheet: {sheet}")
    raise_if_failed(run)
