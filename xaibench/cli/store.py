"""``xaibench store``: look after what runs have kept."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xaibench.cli.output import echo, printable
from xaibench.errors import UsageError

if TYPE_CHECKING:
    from xaibench.io.store import Store

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

store_option = click.option(
    "--store", "folder", type=click.Path(path_type=Path), metavar="DIR", help="The store; in the cache by default."
)


@click.group(name="store")
def command() -> None:
    """Look after the store: predictions, maps and scores that runs have kept, so that nothing is computed twice.

    It may be deleted at any time; it costs only the time to compute again.
    """


@command.command(name="list")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def list_(folder: Path | None, as_json: bool) -> None:
    """Print what is kept, by classifier and explainer."""
    from xaibench.cli.output import print_json

    store = _open(folder)
    rows: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for entry in store.entries():
        about = store.about(entry)
        if about is None:
            key = ("damaged", "", "")
        else:
            key = (str(about.get("kind", "")), str(about.get("classifier", "")), str(about.get("explainer") or ""))
        rows[key][0] += 1
        rows[key][1] += entry.size
    table = [
        {"kind": kind, "classifier": classifier, "explainer": explainer, "entries": count, "bytes": size}
        for (kind, classifier, explainer), (count, size) in sorted(rows.items())
    ]
    if as_json:
        print_json({"directory": str(store.directory), "content": table})
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table("kind", "classifier", "explainer", box=None, header_style="bold", pad_edge=False)
    shown.add_column("entries", justify="right")
    shown.add_column("size", justify="right")
    for row in table:
        names = [Text(printable(str(row[name]))) for name in ("kind", "classifier", "explainer")]
        shown.add_row(*names, f"{row['entries']:,}", size_text(int(str(row["bytes"]))))
    console = Console()
    if table:
        console.print(shown)
    total = sum(size for _, size in rows.values())
    count = sum(count for count, _ in rows.values())
    console.print(Text(printable(f"{count:,} entries, {size_text(total)} in {store.directory}")))


@command.command()
@store_option
@click.pass_context
def verify(context: click.Context, folder: Path | None) -> None:
    """Read every entry; take away those whose checksum is wrong. Exits with 1 if there were any."""
    count, damaged = _open(folder).verify()
    for entry in damaged:
        echo(f"damaged, taken away: {entry.path}")
    echo(f"{count - len(damaged):,} of {count:,} entries are whole")
    if damaged:
        context.exit(1)


@command.command()
@store_option
@click.option("--to", "limit", required=True, metavar="SIZE", help="What may stay: 20G, 500M, 0.")
def prune(folder: Path | None, limit: str) -> None:
    """Take away the entries that were not used for longest, until SIZE is left."""
    count, freed = _open(folder).prune(parse_size(limit))
    echo(f"{count:,} entries taken away, {size_text(freed)} freed")


def _open(folder: Path | None) -> Store:
    from xaibench.io.store import Store, default_store

    return Store(folder or default_store())


def parse_size(text: str) -> int:
    """Read a size in bytes.

    Raises:
        UsageError: not a number with K, M, G or T.

    >>> parse_size("1.5G"), parse_size("200 MB"), parse_size("0")
    (1500000000, 200000000, 0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise UsageError(f"--to {text!r}: write a size such as 20G, 500M or 0")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def size_text(size: float) -> str:
    """Say a size.

    >>> size_text(999), size_text(1_500_000), size_text(2.5e12)
    ('999 B', '1.5 MB', '2.5 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
