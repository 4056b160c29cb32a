"""The stream: image, one forward pass, maps of every explainer, scores. Memory holds two batches and the numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split
from xaibench.datasets.loader import Decoder
from xaibench.explainers.base import Explainer
from xaibench.harness.batch import BatchWork, Running, Sheet, Work
from xaibench.harness.kept import Kept
from xaibench.harness.records import MapMetric, Part, Records, join
from xaibench.harness.scoring import out_of_memory
from xaibench.harness.settling import Settling
from xaibench.types import Frame

__all__ = ["Running", "Sheet", "Work", "parts", "records_of", "stream", "unsettled"]


def stream(
    classifier: Classifier,
    explainers: Mapping[str, Explainer],
    split: Split,
    metrics: Sequence[MapMetric],
    *,
    frame: Frame,
    regions: str = "boxes",
    task: str = "multiclass",
    batch_size: int = 32,
    sheet: Sheet | None = None,
    advance: Callable[[int], None] = lambda _: None,
    running: Running = lambda *_: None,
    kept: Kept | None = None,
) -> Records:
    """Run a split through a classifier and its explainers, and score every map of a class with a region.

    An explainer that fails is given up and named in `Records.failed`; a metric that fails on an explainer's maps is
    given up there and named in `Records.given_up`. The others go on. What an explainer hangs on the classifier is taken
    away again, so that the others see the classifier as it was. Where the memory does not suffice for a batch, it and
    those after it are halved.

    Args:
        frame: where localization is measured; metrics that ask the network get the maps in the input's frame.
        regions: "boxes" or "mask".
        task: "multiclass" or "multilabel", for the probability of a class.
        sheet: is shown the maps that it wants: those that are scored, and of the own classes of images without regions.
        advance: is told how many images are done.
        running: is told which metric asks the network now.
        kept: what is known already is taken from here, and what is new goes there.
    """
    work = Work(classifier, explainers, split, metrics, frame, regions, task, sheet, running, kept)
    return records_of(work, batch_size, advance)


def records_of(work: Work, batch_size: int, advance: Callable[[int], None] = lambda _: None) -> Records:
    """Run a whole split through, batch by batch; see `stream`."""
    done = []
    for part in parts(work, range(len(work.split)), batch_size):
        done.append(part)
        advance(len(part.logits))
    return join(done, work.metrics, list(work.explainers))


def parts(work: Work, rows: range, batch_size: int) -> Iterator[Part]:
    """Yield what each batch of the rows leaves, in their order; an explainer that failed is not asked again.

    Raises:
        DataError: an image can't be decoded.
        torch.OutOfMemoryError: one image is too much.
    """
    settling = Settling(work.sheet)
    for part in unsettled(work, rows, batch_size, settling.failed, settling.given_up):
        yield settling.take(part)


def unsettled(
    work: Work,
    rows: range,
    batch_size: int,
    failed: Mapping[str, str],
    given_up: Mapping[str, Mapping[str, str]],
) -> Iterator[Part]:
    """Yield what each batch of the rows leaves, for a `Settling` to take.

    Args:
        failed, given_up: what is not asked any more; looked at before each batch, so the caller may add to them.
    """
    elsewhere = work.classifier.device.type != "cpu"
    ahead = elsewhere or work.decode_workers > 0
    plan = deque(_chunks(rows, batch_size))
    following: BatchWork | None = None
    with Decoder(work.split, pin=elsewhere, workers=work.decode_workers) as decoder:
        while plan:
            chunk = plan.popleft()
            batch = following or BatchWork(work, chunk, decoder, failed, given_up)
            following = BatchWork(work, plan[0], decoder, failed, given_up) if ahead and plan else None
            if following is not None:  # decoded while this one is explained
                for near in (batch, following):
                    if near.needs_images():
                        decoder.submit(near.rows)
            try:
                part = batch.run()
            except (RuntimeError, MemoryError) as error:
                if len(chunk) == 1 or not out_of_memory(error):
                    raise
                half, following = (len(chunk) + 1) // 2, None
                plan = deque([*_chunks(chunk, half), *(near for later in plan for near in _chunks(later, half))])
                if work.classifier.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield part


def _chunks(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
