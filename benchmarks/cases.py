"""Write docs/cases.md: situations that users bring, with the value before, now, and the right one.

    python benchmarks/cases.py [--nih-sample DIR] [--check] [--only WORD]
    python benchmarks/cases.py --record CHECKOUT [--only WORD]

Each case is run; exits with 1 where the value is not the right one, or where nothing is refused that should be.
--check writes no page. --record runs the xaibench of another checkout and prints what it gives: with one of commit
5578010, the column "before". A few minutes of one core. See tests/cases.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "5578010"
TEXT = (
    "Situations from public reports in which a benchmark would score something else than what was meant. "
    "before is what the commit {before} gave, recorded once (python benchmarks/cases.py --record CHECKOUT, with a "
    "checkout of it); now is computed when this page is written (python benchmarks/cases.py, which exits with 1 where "
    "it is not right); right is worked by hand or by another implementation, as the next column says. refused: an "
    "error of one line that says what to do. The name of an error in its place, such as TypeError: nobody caught it, "
    "and the command line called it not expected. Networks are tiny, with random weights unless one is "
    "called trained; images are drawn. Numbers agree to 1e-6 where nothing else is said."
)


def main() -> int:
    """Run the cases and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nih-sample", type=Path, metavar="DIR", default=ROOT.parent / "shared" / "nih-sample")
    parser.add_argument("--record", type=Path, metavar="CHECKOUT", help="run the xaibench of another checkout")
    parser.add_argument("--only", default="", metavar="WORD", help="cases whose function's name has this in it")
    parser.add_argument("--check", action="store_true", help="write no page")
    asked = parser.parse_args()
    if not (asked.nih_sample / "Data_Entry_2017_v2020.csv").is_file():
        parser.error(f"{asked.nih_sample} has no tables of the NIH release: give --nih-sample")
    sys.path.insert(0, str(ROOT))
    if asked.record:  # its xaibench is imported first; the cases are those of this checkout
        sys.path.insert(0, str(asked.record.resolve()))
        import xaibench

        sys.path.remove(str(asked.record.resolve()))
        print(f"xaibench of {xaibench.__file__}")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XAIBENCH_CACHE"] = f"{folder}/cache"
        os.environ["NIH_SAMPLE"] = str(asked.nih_sample.resolve())
        return run(Path(folder), asked)


def run(folder: Path, asked: argparse.Namespace) -> int:
    """Run the cases, print them, and write the page where all were asked for; return the exit code."""
    from tests.cases.all import CASES
    from tests.cases.base import LONGEST, outcome
    from xaibench.reporting.page import Page, Section, Table, Text, to_markdown

    rows, wrong = [], 0
    for number, one in enumerate(CASES):
        if asked.only not in one.run.__name__:
            continue
        own = folder / str(number)
        own.mkdir()
        began = time.perf_counter()
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            found = outcome(one, own, 100 if asked.record else LONGEST)
        seconds = time.perf_counter() - began
        if asked.record:
            print(f"{one.run.__name__}: {found.shown}", flush=True)
            continue
        wrong += not found.holds
        print(f"{'ok' if found.holds else 'WRONG':5} {seconds:5.1f} s  {one.run.__name__}: {found.shown}", flush=True)
        rows.append((one, [one.given, one.before, found.shown, found.right, one.source, one.test]))
    if asked.record:
        return 0
    print(f"{len(rows)} cases, {wrong} wrong")
    if not asked.check and not asked.only:
        headers = ["case", "before", "now", "right", "by", "test"]
        sections = [
            Section(title, [Table(headers, [cells for _, cells in some])])
            for title, some in groupby(rows, key=lambda row: row[0].section)
        ]
        sections[0] = Section(sections[0].title, [Text(TEXT.format(before=BEFORE)), *sections[0].blocks])
        page = Page("What is scored is what was meant", sections)
        (ROOT / "docs" / "cases.md").write_text(to_markdown(page), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
