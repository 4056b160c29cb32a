"""Where the built-in benchmarks' TOML files are: the targets of the entry points ``xaibench.benchmarks``.

A plugin's benchmark does the same: its entry point names a module attribute that is the path of a TOML file.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the folder inside the package; a checkout (editable install) has it beside the package.
FOLDER = next((f for f in (_PACKAGE / "_benchmarks", _PACKAGE.parent / "benchmarks") if f.is_dir()), _PACKAGE)

phantom = FOLDER / "phantom.toml"
phantom_4class = FOLDER / "phantom-4class.toml"
chestxray8_4class = FOLDER / "chestxray8-4class.toml"
chestxray8_14class = FOLDER / "chestxray8-14class.toml"
chestxray8_sample = FOLDER / "chestxray8-sample.toml"
chestxray8_sample_pneumonia = FOLDER / "chestxray8-sample-pneumonia.toml"
