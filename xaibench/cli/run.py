"""``xaibench run CLASSIFIER --explainer NAME``: explain, score, print, keep."""

from __future__ import annotations

from pathlib import Path

import click

from xaibench.cli.options import pairs, protocol_options
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
    "--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Scores don't depend on it."
)
@click.option(
    "--out",
    default=Path("runs"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the run directories.",
)
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
    batch_size: int,
    out: Path,
    as_json: bool,
) -> None:
    """Explain a benchmark's test images with CLASSIFIER and score the maps.

    Trains the classifier first where no checkpoint of its recipe exists.

    \b
    xaibench run gcm --explainer cwm
    xaibench run densenet121 -e gradcam -e cam --benchmark chestxray8-4class --data-root DIR
    xaibench run densenet121 -e gradcam -m localization -m 'insertion,deletion'
    """
    replaced, fields = pairs(options, "--option"), pairs(recipe, "--recipe")
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.harness.evaluate import evaluate, raise_if_failed

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
