"""``xaibench reproduce BENCHMARK``: the paper's study, every published number beside the measured one."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from xaibench.cli.options import devices_option, pairs
from xaibench.cli.output import echo

_POSITIVE = click.IntRange(min=1)


@click.command(name="reproduce")
@click.argument("benchmark")
@click.option("--data-root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the dataset.")
@click.option(
    "--preset",
    type=click.Choice(["paper", "official_split", "patient_disjoint"]),
    help="One split rule alone; by default the benchmark's, with patient_disjoint beside paper.",
)
@click.option(
    "-o",
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace an option of the classifiers that have it, or of one: gcm.skips=[8,4].",
)
@click.option(
    "--recipe",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a field of both recipes, or of one: densenet121.learning_rate=1e-4.",
)
@click.option("--subsets", default=3, show_default=True, type=_POSITIVE, help="Seeded subsets to train on.")
@click.option("--limit-epochs", type=_POSITIVE, metavar="N", help="Train no more than N epochs.")
@click.option("--limit-images", type=_POSITIVE, metavar="N", help="At most N training images of a class.")
@click.option("--input-size", type=click.IntRange(min=32, max=2048), metavar="PX", help="Side of the images.")
@click.option(
    "--precision",
    type=click.Choice(["32-true", "bf16-mixed", "16-mixed"]),
    help="Of training; the recipes' (single) by default. Scores are always computed in single precision.",
)
@click.option("--offline", is_flag=True, help="Replace pretrained weights by those that need no network.")
@click.option(
    "--dataset-option", "dataset_options", multiple=True, metavar="KEY=VALUE", help="Replace an option of the dataset."
)
@click.option(
    "--older-entries", type=click.Path(path_type=Path), metavar="FILE", help="An older Data_Entry table to compare."
)
@click.option(
    "--ratings",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Ratings of the GCM's maps, made with xaibench rate.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Default: reproductions/BENCHMARK, in this folder."
)
@click.option(
    "--batch-size", default=32, show_default=True, type=_POSITIVE, help="In the evaluation; scores don't depend on it."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@devices_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    benchmark: str,
    data_root: Path | None,
    preset: str | None,
    options: tuple[str, ...],
    recipe: tuple[str, ...],
    subsets: int,
    limit_epochs: int | None,
    limit_images: int | None,
    input_size: int | None,
    precision: str | None,
    offline: bool,
    dataset_options: tuple[str, ...],
    older_entries: Path | None,
    ratings: tuple[Path, ...],
    out: Path | None,
    batch_size: int,
    device: str,
    devices: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Carry out the paper's study by a BENCHMARK and write it as a page, published numbers beside measured ones.

    GCM and DenseNet-121 are trained on seeded subsets, evaluated and compared; where the benchmark's test has patients
    of the training (split rule paper), once more with patients apart. Interrupted at any time, the same command goes
    on where it stopped. Whatever differs from the benchmark is listed in the page.

    \b
    xaibench reproduce chestxray8-4class --data-root DIR
    xaibench reproduce phantom --limit-epochs 2 --limit-images 50
    """
    replaced, fields = pairs(options, "--option"), pairs(recipe, "--recipe")
    of_the_data = pairs(dataset_options, "--dataset-option")
    from xaibench.benchmark import load_benchmark
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.studies.gcm_paper.page import write_reproduction
    from xaibench.studies.gcm_paper.reproduce import reproduce
    from xaibench.studies.gcm_paper.variants import Settings

    protocol = load_benchmark(benchmark)
    folder = out or Path("reproductions") / protocol.name
    settings = Settings(
        subsets=subsets,
        preset=preset,
        limit_epochs=limit_epochs,
        limit_images=limit_images,
        input_size=input_size,
        precision=precision,
        offline=offline,
        dataset_options=of_the_data,
        options=replaced,
        recipe=fields,
    )
    with progress_bars(quiet=quiet or as_json) as progress:
        found = reproduce(
            protocol,
            data_root=data_root,
            out=folder,
            settings=settings,
            older_entries=older_entries,
            batch_size=batch_size,
            device=device,
            devices=devices,
            progress=progress,
        )
        command_line = _command(click.get_current_context())
        pages = write_reproduction(found, folder, command=command_line, ratings=ratings, progress=progress)
    if as_json:
        print_json(found.to_json() | {"pages": [str(page) for page in pages]})
        return
    echo(found.claim)
    for study in (found, found.beside):
        if study is None:
            continue
        rule = f", {study.preset}" if study.preset else ""
        for name, aucs in study.aucs.items():
            macro = aucs[-1]
            echo(f"{name}{rule}: mean ROC-AUC {macro.value:.3f} ({macro.low:.3f} to {macro.high:.3f})")
        for reason in study.missing.values():
            echo(f"Not computable{rule}: {reason}")
    for page in pages:
        echo(f"Page: {page}")


def _command(context: click.Context) -> str:
    """Return the command line again from what it set, so that a call from a program has one too."""
    words = ["xaibench", "reproduce"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif value not in (None, False, ()) and value != parameter.default:
            flag = max(parameter.opts, key=len)
            for one in value if isinstance(value, tuple) else (value,):
                words += [flag] if one is True else [flag, str(one)]
    return shlex.join(words)
