"""The stream: image, one forward pass, maps of every explainer, scores. Memory holds two batches and the numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from xaibench.datasets.loader import Decoder
from xaibench.evaluation.batch import BatchWork, Work
from xaibench.evaluation.merge import Settling
from xaibench.evaluation.records import Part, Records, join
from xaibench.io.memory import out_of_memory


def records_of(work: Work, batch_size: int, advance: Callable[[int], None] = lambda _: None) -> Records:
    """Run a whole split through, batch by batch; `advance` is told how many images are done.

    An explainer that fails is given up and named in `Records.failed`; a metric that fails on an explainer's maps is
    given up there and named in `Records.given_up`. The others go on. What an explainer hangs on the classifier is taken
    away again, so that the others see the classifier as it was. Where the memory does not suffice for a batch, it and
    those after it are halved.
    """
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
            following = BatchWork(work, plan[0], decoder, failed, given_up) if plan else None
            if not ahead:  # beside the network decoding would only take its cores
                batch.meanwhile = partial(_submit, decoder, following)
            else:
                for near in (batch, following):
                    _submit(decoder, near)
            try:
                part = batch.run()
            except (RuntimeError, MemoryError) as error:
                if len(chunk) == 1 or not out_of_memory(error):
                    raise
                half, following = (len(chunk) + 1) // 2, None
                decoder.forget()
                plan = deque([*_chunks(chunk, half), *(near for later in plan for near in _chunks(later, half))])
                if work.classifier.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield part


def _submit(decoder: Decoder, batch: BatchWork | None) -> None:
    if batch is None:
        return
    if batch.needs_images():
        decoder.submit(batch.rows)
    else:
        batch.begin_maps()


def _chunks(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
