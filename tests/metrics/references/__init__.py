"""What other implementations make of the same maps: one entry for each pair of a metric and an implementation.

`docs/make_metric_table.py` shows them, `test_references` holds each to its tolerance, and `test_every_metric` wants an
entry, or a reason in `WITHOUT_REFERENCE`, for every metric. To add one, append a `Reference` to its category's list.
"""

from __future__ import annotations

from tests.metrics.references.again import AGAIN
from tests.metrics.references.base import Reference
from tests.metrics.references.boxes import BOXES
from tests.metrics.references.classification import CLASSIFICATION
from tests.metrics.references.faithfulness import FAITHFULNESS
from tests.metrics.references.maps import MAPS

REFERENCES: list[Reference] = [*CLASSIFICATION, *MAPS, *BOXES, *FAITHFULNESS, *AGAIN]

WITHOUT_REFERENCE = {
    "attribution_localisation_weighted": "Quantus 0.6.0's divides by the wrong axis: worked case in test_ranking",
    "map_area": "visible_in_box with the whole image as mask",
    "visible_outside": "visible_in_box with all that is not the mask as mask",
    "lung_coverage": "visible_in_box with the lung fields as mask",
    "input_invariance": "Quantus's shift spoils the padded border: worked case in test_axioms, beside promises kept",
}
"""Why a metric has no entry above, and what stands in."""

__all__ = ["REFERENCES", "WITHOUT_REFERENCE", "Reference"]
