"""The tables that a run leaves: scores of each map, and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xaibench.datasets.base import Split
from xaibench.evaluation.records import Records

if TYPE_CHECKING:
    import pandas as pd


def image_tables(split: Split, records: Records) -> Iterator[pd.DataFrame]:
    """Yield a table for each explainer: image, patient, class, explainer, metric, value, chance.

    A row is a pair and a metric; the statistics of a pooled metric are no scores of an image, and left out.
    """
    import pandas as pd

    chosen = [column for column, metric in enumerate(records.columns) if "#" not in metric]
    metrics = np.tile(np.arange(len(chosen)), len(records.pair_images))
    pairs = np.repeat(np.arange(len(records.pair_images)), len(chosen))
    images, targets = records.pair_images[pairs], records.pair_targets[pairs]
    named: dict[str, Any] = {
        "image": np.array(split.ids, dtype=object)[images],
        "patient": pd.Categorical(np.array(split.patients, dtype=object)[images]),
        "class": _coded(targets, split.classes),
        "metric": _coded(metrics, [records.columns[column] for column in chosen]),
    }
    chance = records.chance[:, chosen].ravel()
    for explainer, values in records.values.items():
        named["explainer"] = _coded(np.zeros(len(pairs), dtype=np.int8), [explainer])
        yield pd.DataFrame({**named, "value": values[:, chosen].ravel(), "chance": chance})


def _coded(codes: npt.NDArray[np.integer[Any]], names: Sequence[str]) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, pd.Index(list(names)))


def prediction_table(split: Split, records: Records) -> pd.DataFrame:
    """Return the table of predictions: image, patient, and for each class ``logit:CLASS`` and ``label:CLASS``."""
    import pandas as pd

    table: dict[str, Any] = {"image": list(split.ids), "patient": list(split.patients)}
    logits = {f"logit:{name}": records.logits[:, column] for column, name in enumerate(split.classes)}
    labels = {f"label:{name}": split.labels[:, column].astype(int) for column, name in enumerate(split.classes)}
    return pd.DataFrame({**table, **logits, **labels})
