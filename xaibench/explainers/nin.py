"""What Network in Network says of itself."""

from __future__ import annotations

from xaibench.explainers.gcm import OwnMap


class ConfidenceMap(OwnMap):
    """Confidence map (Lin 2014, sec. 3.2): the class's map before global average pooling; its mean is the logit."""

    name, map_name, maker = "confidence_map", "confidence", "nin"
