"""Damage to a file, drawn by hypothesis: bytes, cuts, copies and swaps, and fields replaced by what a parser dreads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

DREADED = (
    b"",
    b"NaN",
    b"-1",
    b"1e999",
    b"-1e-999",
    b"true",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"'",
    b"0x10",
    b"\x00",
    b"\x1b[31m",
    b"[red]",
    b"../../outside.png",
    b"/outside.png",
    b"C:\\outside.png",
    b"9" * 30,
    b"9" * 400,
    b"9" * 5000,
    b"2147483648",
    b"[" * 3000,
    b'{"a":' * 3000,
    b",,,,",
    b"|",
    b"\r",
    b"\n",
    "ä".encode(),
    "ä".encode("latin-1"),
    "\u202e\ufeff".encode(),
)
_FIELD = re.compile(rb"-?[0-9][0-9.eE+-]*|[A-Za-z_][\w.]*|\"[^\"\n]*\"|[{}\[\]:,=]")


class Edit(NamedTuple):
    """One damage; `at` and `to` are shares of the file, in 65536ths."""

    kind: str
    at: int
    to: int
    size: int
    content: bytes


def edits(*, text: bool) -> st.SearchStrategy[list[Edit]]:
    """Draw one to four damages."""
    kinds = ["byte", "bit", "cut", "insert", "delete", "copy", "swap"]
    kinds = ["field", "field", "fields", *kinds] if text else kinds
    content = st.one_of(st.sampled_from(DREADED), st.binary(min_size=1, max_size=6)) if text else st.binary(max_size=8)
    place = st.integers(0, 65535)
    return st.lists(
        st.builds(Edit, st.sampled_from(kinds), place, place, st.integers(1, 40), content), min_size=1, max_size=4
    )


def damage(content: bytes, edits: list[Edit]) -> bytes:
    """Return the content with the damages done in turn."""
    for edit in edits:
        content = _KINDS[edit.kind](content, edit)
    return content


def _at(content: bytes, share: int) -> int:
    return share * len(content) >> 16


def _byte(content: bytes, edit: Edit) -> bytes:
    at = _at(content, edit.at)
    return content[:at] + edit.content[:1] + content[at + 1 :]


def _bit(content: bytes, edit: Edit) -> bytes:
    if not content:
        return content
    at = _at(content, edit.at)
    return content[:at] + bytes([content[at] ^ (1 << edit.size % 8)]) + content[at + 1 :]


def _cut(content: bytes, edit: Edit) -> bytes:
    return content[: _at(content, edit.at)]


def _insert(content: bytes, edit: Edit) -> bytes:
    at = _at(content, edit.at)
    return content[:at] + edit.content + content[at:]


def _delete(content: bytes, edit: Edit) -> bytes:
    at = _at(content, edit.at)
    return content[:at] + content[at + edit.size :]


def _copy(content: bytes, edit: Edit) -> bytes:
    at, to = _at(content, edit.at), _at(content, edit.to)
    return content[:to] + content[at : at + edit.size] + content[to:]


def _swap(content: bytes, edit: Edit) -> bytes:
    first, last = sorted((_at(content, edit.at), _at(content, edit.to)))
    size = min(edit.size, last - first)
    one, two = content[first : first + size], content[last : last + size]
    return content[:first] + two + content[first + size : last] + one + content[last + size :]


def _field(content: bytes, edit: Edit) -> bytes:
    found = list(_FIELD.finditer(content))
    if not found:
        return content
    field = found[_at(b"." * len(found), edit.at)]
    return content[: field.start()] + edit.content + content[field.end() :]


def _fields(content: bytes, edit: Edit) -> bytes:
    """Put one field of the file in the place of another."""
    found = list(_FIELD.finditer(content))
    if not found:
        return content
    one, two = found[_at(b"." * len(found), edit.at)], found[_at(b"." * len(found), edit.to)]
    return content[: one.start()] + two[0] + content[one.end() :]


_KINDS: dict[str, Callable[[bytes, Edit], bytes]] = {
    "byte": _byte,
    "bit": _bit,
    "cut": _cut,
    "insert": _insert,
    "delete": _delete,
    "copy": _copy,
    "swap": _swap,
    "field": _field,
    "fields": _fields,
}
