"""Parts taken one after the other, so that they leave what one pass through the split leaves, wherever they were made.

A shard does not know what earlier shards gave up, or how full the contact sheet is by then: it may do too much, never
too little. What would not have been done is dropped here.
"""

from __future__ import annotations

from collections.abc import Mapping

from xaibench.evaluation.batch import Sheet
from xaibench.evaluation.records import Offer, Part, Plain
from xaibench.metrics._pixels import Spool


class Settling:
    """Takes the parts of a split in its order.

    Attributes:
        failed, given_up: explainers and metrics that the parts so far gave up, as in `Records`.
    """

    def __init__(self, sheet: Sheet | None) -> None:
        self._sheet = sheet
        self.failed: dict[str, str] = {}
        self.given_up: dict[str, dict[str, str]] = {}
        self._spool = Spool()

    def take(self, part: Part) -> Part:
        """Drop from a part what was given up before it, show the sheet what it wants, and return the part.

        Its pixels go to a temporary file, which lasts as long as they are referred to.
        """
        for name in self.failed:
            _drop(part, name)
        for metric, reasons in part.given_up.items():
            for explainer in [name for name in reasons if name in self.given_up.get(metric, {})]:
                del reasons[explainer]
        for name in {*part.offers, *part.plain}:
            self._shown(name, part)
        part.offers, part.plain = {}, {}
        part.pixels = {
            metric: {name: [self._spool.add(row) for row in rows] for name, rows in of.items()}
            for metric, of in part.pixels.items()
        }
        note(part, self.failed, self.given_up)
        return part

    def _shown(self, name: str, part: Part) -> None:
        wanted: list[Offer] = list(part.offers.get(name, []))
        for target, plain in part.plain.get(name, {}).items():
            if not self._wants(name, target, plain):
                continue
            if plain.failed is not None:
                part.failed[name] = plain.failed
                part.values.pop(name, None)
                break
            part.explained[name] = part.explained.get(name, 0) + len(plain.images)
            part.undefined[name] = part.undefined.get(name, 0) + plain.undefined
            if plain.left:
                part.left.setdefault(name, plain.left)
            wanted += plain.offers
        show(self._sheet, name, wanted)

    def _wants(self, name: str, target: int, plain: Plain) -> bool:
        return self._sheet is not None and any(self._sheet.wants(name, image, target, None) for image in plain.images)


def note(part: Part, failed: dict[str, str], given_up: dict[str, dict[str, str]]) -> None:
    """Add what a part gave up."""
    for name, reason in part.failed.items():
        failed.setdefault(name, reason)
    for metric, reasons in part.given_up.items():
        given_up[metric] = {**reasons, **given_up.get(metric, {})}


def show(sheet: Sheet | None, explainer: str, offers: list[Offer]) -> list[Offer]:
    """Offer maps to a sheet, and return those that it wanted."""
    taken = []
    for offer in offers:
        if sheet is not None and sheet.wants(explainer, offer.picture.id, offer.target, offer.hit):
            sheet.offer(explainer, offer.target, offer.picture, offer.heat, offer.hit)
            taken.append(offer)
    return taken


def _drop(part: Part, name: str) -> None:
    for known in (part.values, part.constant, part.failed, part.undefined, part.explained, part.left):
        known.pop(name, None)
    part.offers.pop(name, None)
    part.plain.pop(name, None)
    for reasons in part.given_up.values():
        reasons.pop(name, None)
    for rows in part.pixels.values():
        rows.pop(name, None)


def copied(given_up: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Copy what was given up, two levels deep."""
    return {metric: dict(reasons) for metric, reasons in given_up.items()}
