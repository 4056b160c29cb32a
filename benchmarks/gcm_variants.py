"""GCM and its variants side by side on a benchmark: ROC-AUC, hit rate, energy, speed, size; and which map is sharper.

    python benchmarks/gcm_variants.py [--benchmark phantom] [--recipe epochs=4] [--only plain,skips] [--seeds 1]
    python benchmarks/gcm_variants.py --study sharper --seeds 3

Trains what is not in the cache and goes on where it was interrupted. ``--study variants`` (the default) tries every
option that the papers leave open, and encoders; ``--study sharper`` trains plain GCM and the candidates for a sharper
map over several seeds, each by its own recipe, and says which raise energy in the region by half at no loss of hits and
at most 0.005 of ROC-AUC. Writes ``variants.json`` and a page into ``--out``. Milliseconds an image are those of the
forward pass with maps, all variants timed in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import xaibench
from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.classifiers.base import count_macs
from xaibench.cli.options import pairs
from xaibench.harness.setup import choose_device, make_classifier
from xaibench.memory import settle_process
from xaibench.progress import Progress
from xaibench.versions import versions

ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "schedule": "cosine"}


@dataclass(frozen=True)
class Variant:
    """A GCM: options and recipe fields that differ from the benchmark's."""

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


VIT = {"encoder": "vit_tiny_patch16_224", "weights": "random"}
VARIANTS = {
    "plain": Variant("as used on chest X-rays: one decoder, one signed map a class, EfficientNet-Lite0"),
    "relu": Variant("batch norm and ReLU after the last convolution: no evidence against", {"head": "relu"}),
    "per-class": Variant("one decoder a class", {"decoders": "per_class"}),
    "rgb": Variant("three-channel CWM", {"cwm_channels": 3}),
    "first": Variant(
        "as published first: one decoder a class, three-channel CWM", {"decoders": "per_class", "cwm_channels": 3}
    ),
    "last-1x1": Variant("last convolution 1x1", {"last_kernel": 1}),
    "normalized": Variant("CWM multiplies the normalised image", {"multiply": "normalized"}),
    "blocks.3": Variant("encoder ends one stage earlier", {"stage": "blocks.3"}),
    "skips": Variant("encoder's stages of stride 8 and 4 join the decoder", {"skips": [8, 4]}),
    "vit-frozen": Variant("Vision Transformer (ViT-Ti/16), random weights, frozen", VIT),
    "vit": Variant("Vision Transformer (ViT-Ti/16), trained from scratch", {**VIT, "train_encoder": True}, ADAMW),
}
LATE = {"sparsity_warmup": 5, "epochs": 10, "selection": "last", "precision": "bf16-mixed"}
SHARPER = {
    "plain": Variant("plain GCM by the benchmark's recipe"),
    "sharp": Variant(
        "skips, and evidence made scarce and concentrated once it is found",
        {"skips": [8, 4]},
        {"concentration": 1.6, "sparsity": 0.3, **LATE},
    ),
}


def main() -> int:
    settle_process()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="phantom")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--study", choices=["variants", "sharper"], default="variants")
    parser.add_argument("--recipe", action="append", default=[], metavar="KEY=VALUE", help="for every variant")
    parser.add_argument("--dataset-option", action="append", default=[], metavar="KEY=VALUE", help="such as train=800")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="of table and page")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run directories")
    arguments = parser.parse_args()
    study = VARIANTS if arguments.study == "variants" else SHARPER
    names = [name.strip() for name in arguments.only.split(",") if name.strip()] or list(study)
    for name in names:
        if name not in study:
            parser.error(f"no variant {name!r}: {', '.join(study)}")
    out = arguments.out or Path("runs") / f"gcm-{arguments.study}"
    common = pairs(arguments.recipe, "--recipe")
    table = load_benchmark(arguments.benchmark).model_dump()
    table["dataset"]["options"] = {**table["dataset"]["options"], **pairs(arguments.dataset_option, "--dataset-option")}
    benchmark = Benchmark.model_validate(table)
    rows = []
    for name in names:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
            rows.append(measure(name, study[name], benchmark, common, seed, arguments.data_root, arguments.runs))
    speeds = time_forward({name: study[name] for name in names}, benchmark)
    found = {
        "command": "python benchmarks/gcm_variants.py " + shlex.join(sys.argv[1:]),
        "benchmark": benchmark.name,
        "recipe": common,
        "rows": rows,
        "milliseconds": speeds,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "variants.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = write_page(found, {name: study[name] for name in names})
    (out / "README.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


def measure(
    name: str,
    variant: Variant,
    benchmark: Benchmark,
    common: Mapping[str, Any],
    seed: int,
    data_root: Path | None,
    runs: Path,
) -> dict[str, Any]:
    """Train and evaluate one variant; return its numbers, class by class."""
    base = benchmark.classifier("gcm").recipe.seed
    run = xaibench.evaluate(
        "gcm",
        ["cwm", "ccm"],
        benchmark,
        data_root=data_root,
        out=runs,
        options=variant.options,
        recipe={**common, **variant.recipe, "seed": base + seed},
        progress=Progress(say=lambda text: print(f"  {text}", file=sys.stderr, flush=True)),
    )
    (auc,) = run.select(metric="roc_auc", class_name="macro")
    found: dict[str, Any] = {"variant": name, "seed": seed, "roc_auc": auc.value, "maps": {}}
    found["recipe"] = {key: value for key, value in run.record["recipe"].items() if value}
    for explainer in ("cwm", "ccm", "center"):
        found["maps"][explainer] = {
            metric: {score.class_name: score.value for score in run.select(metric=metric, explainer=explainer)}
            for metric in ("hit_rate", "energy", "iou_otsu")
        }
    return found


def time_forward(
    variants: Mapping[str, Variant], benchmark: Benchmark, images: int = 8, rounds: int = 5
) -> dict[str, dict[str, float]]:
    """Return ms an image (median of the rounds, in which the variants take turns), parameters and MACs."""
    batch = torch.rand(images, 3, benchmark.input_size, benchmark.input_size).contiguous(
        memory_format=torch.channels_last
    )
    spec, models = benchmark.classifier("gcm"), {}
    device = choose_device("cpu")
    for name, variant in variants.items():
        changed = spec.model_copy(update={"options": {**spec.options, **variant.options}})
        models[name] = make_classifier("gcm", changed, benchmark).to(device).optimized()
    spent: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for turn in range(rounds + 1):
            for name, model in models.items():
                began = time.perf_counter()
                model.predict(batch)
                if turn:  # the first warms up
                    spent[name].append((time.perf_counter() - began) / images * 1000)
    return {
        name: {
            "milliseconds": statistics.median(spent[name]),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            "macs": count_macs(model, batch[:1]),
        }
        for name, model in models.items()
    }


def write_page(table: Mapping[str, Any], variants: Mapping[str, Variant]) -> str:
    """Lay the numbers out as Markdown: means over the seeds."""
    rows: Sequence[Mapping[str, Any]] = table["rows"]
    classes = [name for name in rows[0]["maps"]["cwm"]["energy"] if name != "macro"]
    seeds = len({row["seed"] for row in rows})
    lines = [f"# GCM variants on {table['benchmark']}", "", f"`{table['command']}`", ""]
    lines += [f"Mean of {seeds} seed{'s' * (seeds > 1)}; classes in the order {', '.join(classes)}.", ""]
    lines += [
        "| variant | map | ROC-AUC | hit rate | energy | its mean | IoU (Otsu) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in variants:
        own = [row for row in rows if row["variant"] == name]
        for explainer in ("cwm", "ccm"):
            hits, energies, overlap = (
                [mean([row["maps"][explainer][metric][label] for row in own]) for label in (*classes, "macro")]
                for metric in ("hit_rate", "energy", "iou_otsu")
            )
            auc = f"{mean([row['roc_auc'] for row in own]):.3f}"
            lines.append(
                f"| {name} | {explainer} | {auc} | {_row(hits[:-1], 2)} | {_row(energies[:-1], 2)} "
                f"| {energies[-1]:.3f} | {overlap[-1]:.3f} |"
            )
    center = rows[0]["maps"]["center"]
    lines.append(
        f"| any | center | - | {_row([center['hit_rate'][label] for label in classes], 2)} "
        f"| {_row([center['energy'][label] for label in classes], 2)} | {center['energy']['macro']:.3f} "
        f"| {center['iou_otsu']['macro']:.3f} |"
    )
    lines += ["", "| variant | what it is | ms an image | parameters | trained | MMAC |", "|---|---|---|---|---|---|"]
    for name, variant in variants.items():
        speed = table["milliseconds"][name]
        lines.append(
            f"| {name} | {variant.title}: {_settings(variant)} | {speed['milliseconds']:.1f} "
            f"| {speed['parameters']:,.0f} | {speed['trained']:,.0f} | {speed['macs'] / 1e6:,.0f} |"
        )
    if "sharp" in variants and "plain" in variants:
        lines += ["", *verdicts(rows, variants, classes)]
    return "\n".join(lines) + "\n"


def verdicts(rows: Sequence[Mapping[str, Any]], variants: Mapping[str, Variant], classes: Sequence[str]) -> list[str]:
    """Say of each variant and map whether it is sharper than plain GCM's: energy half as much again, no hits lost."""

    def numbers(name: str, explainer: str) -> tuple[float, list[float], float]:
        own = [row for row in rows if row["variant"] == name]
        hits = [mean([row["maps"][explainer]["hit_rate"][label] for row in own]) for label in classes]
        energy = mean([row["maps"][explainer]["energy"]["macro"] for row in own])
        return mean([row["roc_auc"] for row in own]), hits, energy

    lines = [
        "Sharper than plain: energy at least 1.5 times, no class's hit rate lower, ROC-AUC at most 0.005 lower.",
        "",
    ]
    for name in variants:
        for explainer in ("cwm", "ccm") if name != "plain" else ():
            auc, hits, energy = numbers(name, explainer)
            old_auc, old_hits, old_energy = numbers("plain", explainer)
            sharper = energy >= 1.5 * old_energy and auc >= old_auc - 0.005
            sharper = sharper and all(new >= old for new, old in zip(hits, old_hits, strict=True))
            lines.append(
                f"- {name}, {explainer}: energy {energy / old_energy:.2f} times, hit rates "
                f"{_row([new - old for new, old in zip(hits, old_hits, strict=True)], 2, '+')}, ROC-AUC "
                f"{auc - old_auc:+.3f}: {'sharper' if sharper else 'no'}"
            )
    return lines


def mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else float("nan")


def _row(values: Sequence[float], digits: int, sign: str = "") -> str:
    return " / ".join(f"{value:{sign}.{digits}f}" for value in values)


def _settings(variant: Variant) -> str:
    words = [f"{key}={value}" for key, value in (*variant.options.items(), *variant.recipe.items())]
    return f"`{' '.join(words)}`" if words else "the benchmark's options"


if __name__ == "__main__":
    sys.exit(main())
