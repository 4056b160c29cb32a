"""``xaibench shortcut CLASSIFIER -e NAME``: does an explanation give a cheating classifier away?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xaibench.cli.options import pairs, protocol_options
from xaibench.cli.output import echo
from xaibench.errors import UsageError

if TYPE_CHECKING:
    from xaibench.studies.shortcut import Figure, Shortcut


@click.command(name="shortcut")
@click.argument("classifier")
@click.option(
    "-e", "--explainer", "explainers", multiple=True, required=True, metavar="NAME", help="Once or several times."
)
@protocol_options
@click.option(
    "--class", "class_name", default="Pneumothorax", show_default=True, metavar="NAME", help="The marker's class."
)
@click.option(
    "--correlation", default=1.0, show_default=True, type=float, help="Of marker and class in training, 0 to 1."
)
@click.option(
    "--images",
    type=click.IntRange(min=2),
    metavar="N",
    help="Images to explain; those of the test split when left out.",
)
@click.option("--cheating", type=click.Path(path_type=Path), metavar="FILE", help="Weights of the cheating classifier.")
@click.option("--honest", type=click.Path(path_type=Path), metavar="FILE", help="Weights of the honest classifier.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Images at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    classifier: str,
    explainers: tuple[str, ...],
    benchmark: str,
    data_root: Path | None,
    options: tuple[str, ...],
    recipe: tuple[str, ...],
    device: str,
    quiet: bool,
    class_name: str,
    correlation: float,
    images: int | None,
    cheating: Path | None,
    honest: Path | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Train CLASSIFIER to cheat, and once honestly, and see which explainers tell the two apart.

    The phantom plants a marker that goes with one class; the honest classifier never sees it in training. On test
    images with lesion and marker: the share of each map's energy on either, and the ROC-AUC of the share on the marker
    at telling the cheating classifier from the honest one.

    \b
    xaibench shortcut gcm -e cwm -e ccm
    xaibench shortcut densenet121 -e gradcam --class Effusion --correlation 0.9
    """
    replaced, fields = pairs(options, "--option"), pairs(recipe, "--recipe")
    if data_root is not None:
        raise UsageError(
            "--data-root: the phantom needs no data, and no other dataset can plant a marker: leave it out"
        )
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.studies.shortcut import raise_if_failed, shortcut

    with progress_bars(quiet=quiet or as_json) as progress:
        found = shortcut(
            classifier,
            explainers,
            benchmark,
            class_name=class_name,
            correlation=correlation,
            images=images,
            cheating=cheating,
            honest=honest,
            options=replaced,
            recipe=fields,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    raise_if_failed(found, explainers)


def _print(found: Shortcut) -> None:
    from xaibench.cli.output import print_table

    echo(
        f"{found.classifier} on {found.benchmark}: a marker goes with {found.class_name}, correlation "
        f"{found.correlation:g} in the cheating classifier's training"
    )
    for kind, aucs in found.roc_auc.items():
        shown = ", ".join(f"{name} {auc:.3f}" for name, auc in aucs.items())
        echo(f"ROC-AUC of {found.class_name}, {kind}: {shown}")
    columns = {"explainer": "name"}
    columns |= {f"{place}, {kind}": "dim" for place in ("marker", "lesion") for kind in ("cheating", "honest")}
    columns |= {"AUC": "name", "interval": "dim", "n": "dim", "undefined": "dim"}
    rows = [
        [
            one.explainer + (" (baseline)" if one.is_baseline else ""),
            *(_share(one.shares[place][kind]) for place in ("marker", "lesion") for kind in ("cheating", "honest")),
            _share(one.auc),
            f"{one.auc.low:.3f} to {one.auc.high:.3f}",
            str(one.n),
            str(one.undefined),
        ]
        for one in found.detections
    ]
    if rows:
        print_table(columns, rows, title="Share of the energy, and AUC at telling the cheating classifier")
    chance = ", ".join(f"{place} {share:.4f}" for place, share in found.chance.items())
    echo(f"Share of the image (chance): {chance}; AUC by chance: 0.5")
    for note in found.notes:
        echo(f"note: {note}")
    for name, reason in found.failed.items():
        echo(f"note: explainer {name} was given up: {reason}")


def _share(figure: Figure) -> str:
    return "undefined" if figure.value != figure.value else f"{figure.value:.3f}"
