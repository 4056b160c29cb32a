"""``xaibench rate RUN``: have a person mark the maps, and read the marks back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from xaibench.cli.options import reopen_options
from xaibench.cli.output import echo


@click.command(name="rate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--read",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Read ratings back, of one rater or several.",
)
@click.option("-e", "--explainer", "explainers", multiple=True, metavar="NAME", help="Rate these; all of the run.")
@click.option("--folder", is_flag=True, help="Write PNGs and a CSV instead of a page.")
@click.option("--out", type=click.Path(path_type=Path), metavar="PATH", help="Page or folder; in RUN when left out.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the random order.")
@reopen_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    run: Path,
    files: tuple[Path, ...],
    explainers: tuple[str, ...],
    folder: bool,
    out: Path | None,
    seed: int,
    data_root: Path | None,
    checkpoint: Path | None,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a page on which a person marks each map of RUN hit or miss: is red clearly visible inside the box?

    Neither class scores nor names are shown; the order is random. --read gives hit rates, the agreement of raters, and
    the threshold of the visible-in-box curve that agrees best with them.

    \b
    xaibench rate runs/A
    xaibench rate runs/A --read ann.csv --read ben.csv
    """
    from xaibench.cli.output import print_json
    from xaibench.errors import UsageError
    from xaibench.results.run import Run

    opened = Run.load(run)
    if files:
        if folder or out is not None or explainers:
            raise UsageError("--read reads ratings back: leave --folder, --out and --explainer out")
        from xaibench.studies.gcm_paper.rated import rating_results, read_ratings

        results = rating_results(opened, read_ratings(files, opened))
        if as_json:
            print_json(results)
        else:
            _print(results)
        return
    from xaibench.cli.progress import progress_bars
    from xaibench.evaluation.restore import reopen
    from xaibench.studies.gcm_paper.ratings import rating_items, write_folder, write_page

    items = rating_items(opened, explainers, seed)
    path = out or (run / ("rating" if folder else "rate.html"))
    with progress_bars(quiet=quiet or as_json) as progress:
        again = reopen(opened, data_root=data_root, checkpoint=checkpoint, device=device)
        (write_folder if folder else write_page)(again, items, path, progress)
    if as_json:
        print_json({"path": str(path), "items": len(items)})
    else:
        echo(f"{len(items)} maps to rate: {path / 'ratings.csv' if folder else path}")


def _print(results: dict[str, Any]) -> None:
    from xaibench.cli.output import is_terminal, print_table
    from xaibench.reporting.tables.layout import Glyphs

    clean = Glyphs.for_output(sys.stdout.encoding or "ascii", terminal=is_terminal()).clean
    raters = len(results["raters"])
    echo(f"{results['rated']} ratings of {raters} rater{'s' * (raters > 1)}, {results['unrated']} left unrated")
    print_table(
        {"explainer": "name", "class": "text", "rater": "text", "hits": "dim", "hit rate": "name", "interval": "dim"},
        [
            [
                *(clean(row[key]) for key in ("explainer", "class", "rater")),
                f"{row['hits']}/{row['n']}",
                f"{row['value']:.3f}",
                _span(row),
            ]
            for row in results["rates"]
        ],
        title="Hit rate (Wilson's interval)",
    )
    if results["agreement"]:
        print_table(
            {"explainer": "name", "class": "text", "raters": "text", "n": "dim", "same": "dim"}
            | {"kappa": "name", "interval": "dim"},
            [
                [
                    clean(row["explainer"]),
                    clean(row["class"]),
                    clean(" and ".join(row["raters"])),
                    str(row["n"]),
                    f"{row['same']:.3f}",
                    "undefined" if row["value"] is None else f"{row['value']:.3f}",
                    _span(row),
                ]
                for row in results["agreement"]
            ],
            title="Agreement of raters (Cohen's kappa, bootstrap of patients)",
        )
    for rule in results["rules"]:
        echo(_sentence(rule))
    for note in results["notes"]:
        echo(f"note: {clean(note)}")


def _sentence(rule: dict[str, Any]) -> str:
    held, constant, gain = rule["held_out"], rule["constant"], rule["gain"]
    return (
        f"{rule['explainer']}: called a hit where more than {rule['share']:.0%} of the box exceeds "
        f"{rule['threshold']:.2f} of the map's largest value (fitted on half of the patients), "
        f"{held['same']:.3f} of the {held['n']} ratings of the other half are met ({_span(held)}); always "
        f"{constant['answer']!r} meets {constant['same']:.3f} ({_span(constant)}); gain {gain['value']:+.3f} "
        f"({_span(gain)})"
    )


def _span(row: dict[str, Any]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}"
