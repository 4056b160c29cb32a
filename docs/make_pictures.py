"""Make README's pictures from a real run: ``python docs/make_pictures.py``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from xaibench import evaluate
from xaibench.reports.tables import export_svg

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run gcm with cwm on the phantom and keep its table and its contact sheet."""
    with tempfile.TemporaryDirectory() as folder:
        run = evaluate("gcm", ["cwm"], "phantom", out=Path(folder), device="cpu")
        assert run.directory is not None
        shutil.copyfile(run.directory / "contact-sheet-cwm.png", HERE / "contact-sheet.png")
        # The folder is gone when anyone reads the picture.
        export_svg(type(run)(**{**run.__dict__, "directory": None}), HERE / "run.svg", width=130)


if __name__ == "__main__":
    main()
