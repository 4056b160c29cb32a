"""``xaibench train CLASSIFIER``: carry out a benchmark's recipe and keep the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from xaibench.cli.options import devices_option, pairs, protocol_options
from xaibench.cli.output import echo


@click.command(name="train")
@click.argument("classifier")
@protocol_options
@click.option("--retrain", is_flag=True, help="Train even where a checkpoint of the recipe exists.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Also copy the weights (.safetensors) here."
)
@devices_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    classifier: str,
    benchmark: str,
    data_root: Path | None,
    options: tuple[str, ...],
    recipe: tuple[str, ...],
    device: str,
    quiet: bool,
    retrain: bool,
    out: Path | None,
    devices: int,
    as_json: bool,
) -> None:
    """Train CLASSIFIER by a benchmark's recipe; an interrupted training goes on where it stopped.

    \b
    xaibench train gcm
    xaibench train densenet121 --benchmark chestxray8-4class --data-root DIR
    """
    replaced, fields = pairs(options, "--option"), pairs(recipe, "--recipe")
    from xaibench.benchmark import load_benchmark
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.errors import UsageError
    from xaibench.evaluation.setup import choose_device, duration, load_splits, make_classifier, obtain_weights, spec_of
    from xaibench.io.files import make_folder, write_atomically

    if out is not None and out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: a checkpoint's name ends in .safetensors")
    protocol = load_benchmark(benchmark)
    spec = spec_of(classifier, protocol, replaced, fields)
    with progress_bars(quiet=quiet or as_json) as progress:
        splits = load_splits(protocol, data_root)
        for note in splits.notes:
            progress.say(note)
        model = make_classifier(classifier, spec, protocol).to(choose_device(device))
        if model.comes_trained:
            raise UsageError(f"{classifier} comes with its weights: evaluate it with xaibench run {classifier}")
        checkpoint = obtain_weights(
            classifier, model, spec, protocol, splits, retrain=retrain, devices=devices, progress=progress
        )
    if out is not None:
        beside = out.with_suffix(".json")
        make_folder(out.parent)
        beside.unlink(missing_ok=True)  # no JSON may stand beside weights that it does not describe
        write_atomically(out, lambda part: shutil.copyfile(checkpoint.path, part))
        write_atomically(beside, lambda part: shutil.copyfile(checkpoint.json_path, part))
    kept = out or checkpoint.path
    aucs = [auc for record in checkpoint.history if (auc := record["auc"]) is not None]
    if as_json:
        print_json({"checkpoint": str(kept), "hash": checkpoint.making.hash, "history": checkpoint.history})
    else:
        best = f"best ROC-AUC {max(aucs):.3f} on the held-out images" if aucs else "no held-out images"
        echo(f"{classifier}: {best}, {duration(checkpoint.seconds)}")
        echo(f"Weights: {kept}")
