"""The visible-in-box curves of a run, with the published rates beside them."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xaibench.published import Published
from xaibench.results.run import Run
from xaibench.statistics import wilson_interval

_STYLES = ("-", "--", "-.", ":")
_BY_EYE = "#e69f00"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito


def draw_curves(run: Run, published: Published) -> bytes | None:
    """Return a PNG with a panel for each class that has boxes, None where no curve was measured.

    Measured: the mean share of the box where the map exceeds each threshold, with its interval; baselines in grey.
    Published: the share of images judged a hit by eye, with Wilson's interval, as a band; it has no threshold.
    """
    prefix = "visible_in_box@"
    points = [score for score in run.scores if score.metric.startswith(prefix) and score.value is not None]
    names = [name for name in run.benchmark.classes if any(score.class_name == name for score in points)]
    if not names:
        return None
    figure = Figure(figsize=(max(3.4 * len(names) + 0.4, 6.0), 4.4), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for number, explainer in enumerate((*run.explainers, *run.baselines)):
            own = [score for score in points if (score.explainer, score.class_name) == (explainer, name)]
            own.sort(key=lambda score: float(score.metric.removeprefix(prefix)))
            x = [float(score.metric.removeprefix(prefix)) for score in own]
            baseline = explainer not in run.explainers
            colour = "0.55" if baseline else _COLOURS[number % len(_COLOURS)]
            style = _STYLES[number % len(_STYLES)] if baseline else "-"
            axes.plot(
                x,
                [score.value for score in own],
                style,
                color=colour,
                linewidth=1.0 if baseline else 1.8,
                label=explainer,
            )
            if not baseline:
                limits = [[getattr(score, end) for score in own] for end in ("low", "high")]
                axes.fill_between(x, *limits, color=colour, alpha=0.15, linewidth=0)
        title = name
        if (counts := published.visual_hits.counts.get(name)) is not None:
            interval = wilson_interval(counts.hits, counts.images)
            axes.axhspan(interval.low, interval.high, color=_BY_EYE, alpha=0.25, linewidth=0)
            axes.axhline(counts.rate, color=_BY_EYE, linewidth=1.2, label="published (NIH): images judged hits by eye")
            title += f"\npublished (NIH) {counts.hits}/{counts.images} = {counts.rate:.3f}"
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="threshold, share of the map's maximum", xlim=(0, 1), ylim=(0, 1.02))
    by_label = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    panels[0].set_ylabel("share of the box visible")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
