"""GCM and its variants side by side on a benchmark: ROC-AUC, hit rate, energy, speed, size; and which map is sharper.

    python benchmarks/gcm_variants.py [--benchmark phantom] [--recipe epochs=4] [--only plain,skips] [--seeds 1]
    python benchmarks/gcm_variants.py --study sharper --seeds 3

Trains what is not in the cache and goes on where it was interrupted. ``--study variants`` (the default) tries every
option that the papers leave open, and encoders. ``--study sharper`` trains plain GCM and the candidate for a sharper
map by each one's own recipe, on data and with seeds that its choice never saw (`FRESH`), and compares them pair by pair
on the same test images: sharper means more energy in the region and no less of hits, IoU and ROC-AUC. Writes
``variants.json`` and a page into ``--out``. Milliseconds an image are those of the forward pass with maps, all variants
timed in turn in one process.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import xaibench
from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.classifiers.base import count_macs
from xaibench.cli.options import pairs
from xaibench.evaluation.setup import choose_device, make_classifier
from xaibench.io.memory import settle_process
from xaibench.io.versions import versions
from xaibench.progress import Progress
from xaibench.results.predictions import predicted
from xaibench.results.run import MACRO, Run
from xaibench.studies.gcm_paper.map_pairs import compare_maps
from xaibench.studies.gcm_paper.subsets import equivalences

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
FRESH = {"seed": 11, "test": 600}
"""Options of the phantom for the sharper study: drawn anew. The recipes were chosen on its seed 0."""
FIRST_FRESH = 3
"""Training seeds 0 to 2 have been looked at."""
CRITERIA = ("energy", "hit_rate", "iou_otsu")
AUC_MARGIN = 0.005
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
    parser.add_argument("--first-seed", type=int, help=f"0; in the sharper study {FIRST_FRESH}")
    parser.add_argument("--out", type=Path, help="of table and page")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run directories")
    arguments = parser.parse_args()
    sharper = arguments.study == "sharper"
    study = SHARPER if sharper else VARIANTS
    first_seed = arguments.first_seed if arguments.first_seed is not None else FIRST_FRESH if sharper else 0
    names = [name.strip() for name in arguments.only.split(",") if name.strip()] or list(study)
    for name in names:
        if name not in study:
            parser.error(f"no variant {name!r}: {', '.join(study)}")
    out = arguments.out or Path("runs") / f"gcm-{arguments.study}"
    common = pairs(arguments.recipe, "--recipe")
    table = load_benchmark(arguments.benchmark).model_dump()
    given = pairs(arguments.dataset_option, "--dataset-option")
    table["dataset"]["options"] |= (FRESH if sharper and table["dataset"]["name"] == "phantom" else {}) | given
    benchmark = Benchmark.model_validate(table)
    rows: list[dict[str, Any]] = []
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(first_seed, first_seed + arguments.seeds):
        for name in names:
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
            row, run = measure(name, study[name], benchmark, common, seed, arguments.data_root, arguments.runs)
            rows.append(row)
            runs[name].append(run)
    speeds = time_forward({name: study[name] for name in names}, benchmark)
    found = {
        "command": "python benchmarks/gcm_variants.py " + shlex.join(sys.argv[1:]),
        "benchmark": benchmark.name,
        "dataset": dict(benchmark.dataset.options),
        "recipe": common,
        "rows": rows,
        "paired": judge(runs["sharp"], runs["plain"]) if sharper and {"sharp", "plain"} <= set(names) else {},
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
) -> tuple[dict[str, Any], Run]:
    """Train and evaluate one variant; return its numbers, class by class, and the run."""
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
    return found, run


def judge(new: Sequence[Run], old: Sequence[Run]) -> dict[str, Any]:
    """Compare a variant's runs with plain GCM's, one of each training seed, on the same test images.

    Intervals and tests draw patients, whose images come along in every seed; the seeds' own differences stand beside.
    """
    aucs = equivalences(new, old, margin=AUC_MARGIN)[-1]
    found: dict[str, Any] = {"patients": len(set(predicted(new[0]).patients)), "roc_auc": _plain(aucs), "maps": {}}
    for explainer in ("cwm", "ccm"):
        rows = compare_maps(new, old, (explainer, explainer), CRITERIA)
        seeds = [compare_maps([one], [other], (explainer,) * 2, CRITERIA) for one, other in zip(new, old, strict=True)]
        found["maps"][explainer] = [
            {**_plain(row), "seeds": [each[at].difference for each in seeds]} for at, row in enumerate(rows)
        ]
    return found


def _plain(row: Any) -> dict[str, Any]:
    return {key: None if value != value else value for key, value in asdict(row).items()}


def verdict(paired: Mapping[str, Any], explainer: str) -> tuple[bool, list[str]]:
    """Return whether a map is sharper, and why not: more energy, and hits, IoU and ROC-AUC not lower.

    Lower is a difference whose interval lies below 0; of ROC-AUC one whose interval lies below the margin.
    """
    rows = paired["maps"][explainer]
    against = [
        f"{row['metric']} of {row['class_name']} {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        for row in rows
        if row["metric"] != "energy" and row["high"] < 0
    ]
    (energy,) = (row for row in rows if (row["metric"], row["class_name"]) == ("energy", MACRO))
    if not energy["low"] > 0:
        against.append(f"energy {energy['difference']:+.3f} [{energy['low']:+.3f}, {energy['high']:+.3f}]")
    auc = paired["roc_auc"]
    if auc["high"] < -AUC_MARGIN:
        against.append(f"ROC-AUC {auc['difference']:+.3f} [{auc['low']:+.3f}, {auc['high']:+.3f}]")
    return not against, against


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
    if (data := table.get("dataset")) is not None:
        lines += [f"Data: {', '.join(f'{key} = {value}' for key, value in data.items())}.", ""]
    which = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    lines += [
        f"Mean of {seeds} training seed{'s' * (seeds > 1)} ({which}); classes in the order {', '.join(classes)}.",
        "",
    ]
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
    if table.get("paired"):
        lines += ["", *paired_lines(table["paired"], seeds)]
    return "\n".join(lines) + "\n"


def paired_lines(paired: Mapping[str, Any], seeds: int) -> list[str]:
    """Lay the paired comparison out, and say whether the map is sharper."""
    lines = [
        f"## sharp less plain, on the same test images of {paired['patients']} patients, {seeds} training "
        f"seed{'s' * (seeds > 1)} each",
        "",
        "95% intervals by bootstrap of patients, who come along in every seed; p by permutation of patients, after "
        "Holm over the three means of a map.",
        "",
        "| map | metric: class | sharp | plain | difference | p after Holm | each seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for explainer, rows in paired["maps"].items():
        for row in rows:
            p = "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
            lines.append(
                f"| {explainer} | {row['metric']}: {row['class_name']} | {row['first']:.3f} | {row['second']:.3f} "
                f"| {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] | {p} "
                f"| {', '.join(f'{value:+.3f}' for value in row['seeds'])} |"
            )
    auc = paired["roc_auc"]
    lines += [
        "",
        f"Mean ROC-AUC: {auc['difference']:+.4f}, 90% interval {auc['low']:+.4f} to {auc['high']:+.4f}; TOST with a "
        f"margin of {AUC_MARGIN:g}: p = {auc['p']:.2g}.",
        "",
        "Sharper: energy higher, and neither a class's or the mean hit rate or IoU nor ROC-AUC lower (an interval "
        f"below 0; of ROC-AUC below -{AUC_MARGIN:g}).",
        "",
    ]
    for explainer in paired["maps"]:
        sharper, against = verdict(paired, explainer)
        lines.append(f"- {explainer}: {'sharper' if sharper else 'not sharper: ' + '; '.join(against)}")
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
