"""ChestX-ray8 / ChestX-ray14 of the NIH Clinical Center: loader, split rules and data check.

Source: X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers, "ChestX-ray8: Hospital-scale Chest X-ray Database and
Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases", CVPR 2017, pp. 3462-3471;
https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from __future__ import annotations

from xaibench.datasets.chestxray8.loader import ChestXray8Split, chestxray8

__all__ = ["ChestXray8Split", "chestxray8"]
