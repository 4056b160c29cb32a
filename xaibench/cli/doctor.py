"""``xaibench doctor CLASSIFIER -e NAME``: examine both before a long evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xaibench.cli.options import pairs, protocol_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xaibench.findings import Finding


@click.command(name="doctor")
@click.argument("classifier")
@click.option("-e", "--explainer", "explainers", multiple=True, metavar="NAME", help="Once or several times.")
@protocol_options
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="FILE", help="Trained weights.")
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
    checkpoint: Path | None,
    as_json: bool,
) -> int:
    """Examine CLASSIFIER and explainers on four test images: target layer, normalisation, gradients, maps.

    Takes seconds and trains nothing; each finding comes with its remedy. Exit code 1 when one is an error.

    \b
    xaibench doctor gcm -e cwm -e gradcam
    xaibench doctor densenet121 -e gradcam --benchmark chestxray8-4class --data-root DIR
    """
    replaced, fields = pairs(options, "--option"), pairs(recipe, "--recipe")
    from xaibench.cli.output import print_json
    from xaibench.evaluation.examine import examine
    from xaibench.findings import errors

    found = examine(
        classifier,
        explainers,
        benchmark,
        data_root=data_root,
        options=replaced,
        recipe=fields,
        checkpoint=checkpoint,
        device=device,
    )
    if as_json:
        print_json({"findings": [finding.to_json() for finding in found], "errors": len(errors(found))})
    else:
        print_findings([finding for finding in found if not quiet or finding.severity != "note"])
        if not quiet:
            click.echo(summary(found))
    return int(bool(errors(found)))


def print_findings(found: Sequence[Finding]) -> None:
    """Print a table of findings, the errors in red."""
    from xaibench.cli.output import print_table

    columns = {"severity": "dim", "about": "name", "finding": "text", "remedy": "text"}
    rows = [[finding.severity, finding.subject, finding.what, finding.remedy] for finding in found]
    if rows:
        print_table(columns, rows, bad=[i for i, finding in enumerate(found) if finding.severity == "error"])


def summary(found: Sequence[Finding]) -> str:
    """Say how many findings of each severity there are.

    >>> summary([])
    'No errors, no warnings.'
    """
    counts = {kind: sum(finding.severity == kind for finding in found) for kind in ("error", "warning")}
    said = [f"{count or 'no'} {kind}{'s' * (count != 1)}" for kind, count in counts.items()]
    text = ", ".join(said)
    return text[:1].upper() + text[1:] + "."
