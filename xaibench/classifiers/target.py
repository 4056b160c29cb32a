"""Which layer of a network is explained: the last one that keeps places and that everything the head reads passes.

Found by what the network does with three probe images, not by names or shapes; see `find_target`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.hooked import Target, replaced, with_tensor
from xaibench.classifiers.layout import KINDS, Layout, Verdict, changes, judge, layouts, tensor_of
from xaibench.classifiers.probe import QUARTERS, probe_images, with_quarters_changed
from xaibench.errors import UsageError
from xaibench.io.memory import out_of_memory

Run = Callable[[Tensor], Tensor]
"""Runs the network on images (N, 3, S, S) in [0, 1] of any side S, and returns logits (N, K)."""

LARGER, LARGEST = 224, 512
"""Sides of larger probe images, for networks that take them: where all cells of a layer see all of the image, as at the
end of a deep network on small images, no layout can be told from another."""
WEAK = 0.1
"""A layer that does not pass, though cells inside the changed quarters change by e^0.1 more than the others in the mean
over the quarters, may well keep places: to explain an earlier one in its place would be a guess."""
_WINDOW = 8
"""Layers that are tested at once, from the last."""
_NO_TARGETS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Identity, nn.modules.dropout._DropoutNd)
"""Modules that only pool what others made, or pass it on."""
_PLACES = 8
"""Places without gradient that are tried by a change of the features, as a maximum has its gradient in one place."""


@dataclass(frozen=True)
class Output:
    """A module's output in one forward pass: of the last of `call` calls."""

    name: str
    call: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    wrapped: bool


def find_target(
    module: nn.Module, run: Run, size: int, device: torch.device, *, layer: str | None = None, kind: str | None = None
) -> Target:
    """Choose the layer that is explained.

    The last output of a module that keeps places (cells of a changed quarter of the image change at least twice as much
    as the others, in 11 of 12 cases, see `layout`), on which the logits depend at every place, and which carries all
    that they know of the image: with another image's output in its place the logits are the other image's. So it is
    the last block's input in a Vision Transformer that reads its class token only. Where only earlier, finer layers
    carry everything (heads that read several stages), the last that keeps places is taken; where none does (two streams
    from the image on), there is no target.

    Args:
        module: the network, in eval mode; left as it is found.
        run: see `Run`.
        size: side of the images that will be explained.
        device: of the network.
        layer: the name of the module to take in place of the last one.
        kind: the layout's kind, taken as right without a test.

    Raises:
        UsageError: no layer passes, or the one named does not.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"layout = {kind!r}; it is one of {', '.join(map(repr, KINDS))}")
    search = _Search(module, run, probe_images(size).to(device), kind)
    if layer is not None:
        return search.named(layer)
    return search.last()


class NoTargetError(UsageError):
    """No layer can be explained; the network itself runs."""


class _Search:
    """What is asked of the network's layers, each question at most once."""

    def __init__(self, module: nn.Module, run: Run, images: Tensor, kind: str | None) -> None:
        self.module, self.run, self.images, self.kind = module, run, images, kind
        with torch.no_grad():
            self.logits = run(images)
            self.outputs = _outputs(module, lambda: run(images[:1]))
        self.finite = bool(self.logits.isfinite().all())
        self.named_ones = [output for output in self.outputs if any(layouts(output.shape, 1, kind))]
        kinds = dict(module.named_modules())
        self.spatial = [output for output in self.named_ones if not _passes_on(kinds[output.name], output)]
        self._judged: dict[str, dict[Layout, Verdict]] = {}

    def last(self) -> Target:
        if not self.spatial:
            raise NoTargetError("no module has an output (B, C, h, w), (B, h, w, C) or (B, N, C)")
        if not self.finite:
            return self._unjudged(self.spatial[0])
        if bool((self.logits == self.logits[:1]).all()):
            raise NoTargetError("the logits of all probe images are the same, so that nothing can be told of a layer")
        candidate: tuple[Output, Layout, Verdict] | None = None
        for output in self.spatial:
            if not (verdicts := self._verdicts_of(output)):
                continue  # its first axis is no batch
            layout, verdict = _best(verdicts)
            if candidate is not None and verdict.holds and _grid(layout) != _grid(candidate[1]):
                break
            if not self._every_place(output, layout):
                continue
            carries = (verdict.holds or candidate is None) and self._carries_all(output, layout)
            if carries and not verdict.holds:
                layout, verdict = self._on_larger_images(output, layout, verdict)
            if not verdict.holds:
                continue
            candidate = candidate or (output, layout, verdict)
            if carries:
                return _chosen(output, layout, verdict, "all that the logits know of the image passes it")
        if candidate is not None and not self._has_trunk():
            raise NoTargetError(
                f"{candidate[0].name} is the last layer that keeps places, but only a part of what the logits know of "
                "the image passes it, and no layer has all"
            )
        if candidate is not None:
            return _chosen(*candidate, "a part of what the logits know of the image passes elsewhere")
        raise NoTargetError(
            "no layer passes the test that its places are the image's and that the logits depend on all of them "
            f"({len(self.spatial)} tried, from {self.spatial[0].name} on)"
        )

    def _has_trunk(self) -> bool:
        """Tell whether any layer, coarser than the image, has all that the logits know: not so in two streams."""
        side = self.images.shape[-1]
        return any(
            layout.height < side and self._carries_all(output, layout)
            for output in reversed(self.spatial)
            for layout in list(layouts(output.shape, 1, self.kind))[:1]
        )

    def named(self, name: str) -> Target:
        output = next((output for output in self.named_ones if output.name == name), None)
        if output is None:
            there = ", ".join(output.name for output in reversed(self.named_ones))
            near = f"; it has {there}"[:300] if there else ""
            shape = "(B, C, h, w)" if self.kind is None else f"that is laid out {self.kind}"
            raise UsageError(f"no module {name!r} with an output {shape}{near}")
        if not self.finite:
            return self._unjudged(output)
        layout, verdict = _best(self._verdicts_of(output) or {next(layouts(output.shape, 1, self.kind)): Verdict(0, 0)})
        if self.kind is not None:
            return _target(output, layout, f"named by layer, its layout ({self.kind}) by layout")
        if not verdict.holds:
            with suppress(NoTargetError):
                layout, verdict = self._on_larger_images(output, layout, verdict)
        if not verdict.holds:
            raise UsageError(
                f"a layer {name!r} that does not pass the test that its places are the image's: if it keeps them, say "
                f"how they are laid out with layout=, one of {', '.join(KINDS)}"
            )
        return _target(output, layout, f"named by layer; its places are the image's {verdict}")

    def _unjudged(self, output: Output) -> Target:
        """Go by the shape where the logits are NaN or infinite: nothing can be told of such a network."""
        layout = next(layouts(output.shape, 1, self.kind))
        return _target(output, layout, "not tested, as the logits of the probe images are NaN or infinite")

    def _verdicts_of(self, output: Output) -> Mapping[Layout, Verdict]:
        """Judge the layouts of an output, and those of some before it in the same pass."""
        if output.name not in self._judged:
            among = self.spatial if output in self.spatial else [output]  # one that was named may pass its input on
            start = among.index(output)
            window = among[start : start + _WINDOW]
            self._judged |= _judged(self.module, self.run, self.images, window, self.kind)
        return self._judged[output.name]

    def _on_larger_images(self, output: Output, layout: Layout, verdict: Verdict) -> tuple[Layout, Verdict]:
        """Return the layout that holds on larger images, and its verdict there; where none does, what is known.

        Raises:
            NoTargetError: none holds, and yet the layer may keep places.
        """
        own = {_form(known): known for known in layouts(output.shape, 1, self.kind)}
        for size in larger_sizes(self.images.shape[-1]):
            if verdict.holds or not self._takes(size):
                break
            images = probe_images(size).to(self.images.device)
            larger = _judged(self.module, self.run, images, [output], self.kind)[output.name]
            if alike := {own[_form(known)]: found for known, found in larger.items() if _form(known) in own}:
                layout, verdict = max((_best(alike), (layout, verdict)), key=lambda known: known[1].rank)
        if not verdict.holds and verdict.margin >= WEAK:
            raise NoTargetError(
                f"{output.name} is the last layer that may keep places, but does not pass the test that they are the "
                f"image's {verdict}"
            )
        return layout, verdict

    def _takes(self, size: int) -> bool:
        """Tell whether the network takes images of another size."""
        try:
            with torch.no_grad():
                return bool(self.run(probe_images(size)[:1].to(self.images.device)).isfinite().all())
        except Exception:  # whatever a network of one size raises
            return False

    @cached_property
    def _gradients(self) -> Mapping[str, Tensor]:
        """Gradients of the logits at the outputs, as far as there are any."""
        return _gradients(self.module, self.run, self.images[:1], self.spatial)

    def _every_place(self, output: Output, layout: Layout) -> bool:
        def logits_of(changed: Callable[[Tensor], Tensor], copies: int) -> Tensor:
            def give(run: Callable[[], Any]) -> Any:
                made = run()
                tensor = tensor_of(made)
                assert tensor is not None
                return with_tensor(made, layout.to_output(changed(layout.to_grid(tensor)), tensor).contiguous())

            with torch.no_grad(), replaced(self.module, output.name, output.call, give):
                return self.run(self.images[:1].repeat(copies, 1, 1, 1))

        gradient = self._gradients.get(output.name)
        grid = None if gradient is None else layout.to_grid(gradient)[0]
        if grid is not None and (layout.prefix or layout.suffix) and bool((grid.abs().sum(dim=0) == 0).any()):
            return False  # what the head knows of such a place is in the class token
        return every_place(grid, (layout.height, layout.width), logits_of)

    def _carries_all(self, output: Output, layout: Layout) -> bool:
        """Tell whether another image's output in place of its own makes the logits those of the other image."""

        def rolled(run: Callable[[], Any]) -> Any:
            made = run()
            tensor = tensor_of(made)
            assert tensor is not None
            return with_tensor(made, tensor.roll(1, dims=1 if layout.kind == "tokens_first" else 0))

        with torch.no_grad(), replaced(self.module, output.name, output.call, rolled):
            found = self.run(self.images).float()
        wanted, own = self.logits.float().roll(1, dims=0), self.logits.float()
        apart = float((wanted - own).abs().max())
        return float((found - wanted).abs().max()) <= max(0.01 * apart, 1e-5 * float(own.abs().max()))


def every_place(
    gradient: Tensor | None, grid: tuple[int, int], logits_of: Callable[[Callable[[Tensor], Tensor], int], Tensor]
) -> bool:
    """Tell whether logits depend on every place of features: by the gradient, and where that is zero by a change there.

    Args:
        gradient: of the logits at the features of one image, (C, h, w); None where there is none to be had.
        grid: h and w.
        logits_of: called with what changes features (N, C, h, w) and with N; returns logits of the image, (N, K).
    """
    height, width = grid
    without = torch.ones(height * width) if gradient is None else (gradient.abs().sum(dim=0) == 0).flatten().cpu()
    places = torch.nonzero(without).flatten()
    if not len(places):
        return True
    chosen = places[torch.linspace(0, len(places) - 1, min(_PLACES, len(places))).long()].tolist()

    def change(features: Tensor) -> Tensor:
        changed = features.clone()
        noise = torch.randn(changed.shape[1], generator=torch.Generator().manual_seed(0)).abs().to(changed)
        size = 10 * changed[0].float().std().clamp(min=1e-6).to(changed)
        for row, place in enumerate(chosen, start=1):
            changed[row, :, place // width, place % width] += size * noise
        return changed

    logits = logits_of(change, len(chosen) + 1).float()
    moved = (logits[1:] - logits[:1]).abs().amax(1)
    return bool((moved > 1e-6 * logits[0].abs().max()).all())


def larger_sizes(size: int) -> Iterator[int]:
    """Yield the sides of larger probe images.

    >>> list(larger_sizes(64)), list(larger_sizes(224)), list(larger_sizes(300))
    ([224, 448], [448], [])
    """
    larger = max(LARGER, 2 * size)
    while larger <= LARGEST:
        yield larger
        larger *= 2


def judge_features(features: Callable[[Tensor], Tensor], size: int, device: torch.device) -> Verdict:
    """Judge whether the places of features (N, C, h, w) are the image's, at the input size or on larger images.

    Args:
        features: of images (N, 3, S, S) of any side S, as far as the network takes them.
        size: the input size.
        device: of the images.

    Raises:
        ValueError: a grid below 2 x 2.
    """
    best: Verdict | None = None
    for side in (size, *larger_sizes(size)):
        if best is not None and best.holds:
            break
        for how in range(2):
            changed = []
            try:
                for image in torch.split(probe_images(side).to(device), 1):
                    with torch.no_grad():
                        found = features(torch.cat([image, with_quarters_changed(image)[how]]))
                    changed.append(changes(found, next(layouts(found.shape, QUARTERS + 1, "channels_first"))))
            except StopIteration:
                raise ValueError("a grid below 2 x 2") from None
            except Exception as error:  # a network of one size
                if best is None or out_of_memory(error):
                    raise
                break
            best = max((verdict for verdict in (best, judge(changed)) if verdict), key=lambda known: known.rank)
            if best.holds:
                break
    assert best is not None
    return best


def _outputs(module: nn.Module, run: Callable[[], Any]) -> list[Output]:
    """Run the network and return its modules' outputs that may hold places, the last that ended first."""
    found: dict[str, Output] = {}
    calls: dict[str, int] = {}

    def note(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        found.pop(name, None)
        if (tensor := tensor_of(output)) is not None:
            found[name] = Output(name, calls[name], tuple(tensor.shape), tensor.dtype, tensor is not output)

    with _noting(module, note):
        run()
    return list(found.values())[::-1]


@contextmanager
def _noting(
    module: nn.Module, note: Callable[[str, Any], None], names: Collection[str] | None = None
) -> Iterator[None]:
    """Call `note` with the name and output of each module that ends in the block."""
    with ExitStack() as stack:
        for name, layer in module.named_modules():
            if name and not isinstance(layer, torch.jit.ScriptModule) and (names is None or name in names):
                hook = layer.register_forward_hook(lambda _, __, output, name=name: note(name, output))
                stack.callback(hook.remove)
        yield


def _judged(
    module: nn.Module, run: Run, images: Tensor, outputs: Sequence[Output], kind: str | None
) -> dict[str, dict[Layout, Verdict]]:
    """Judge the layouts of some outputs: by quarters of noise and, where that does not decide, by blurred ones."""
    judged: dict[str, dict[Layout, Verdict]] = {output.name: {} for output in outputs}
    for how in range(2):
        names = {name for name, known in judged.items() if not any(verdict.holds for verdict in known.values())}
        found: dict[str, dict[Layout, list[Tensor]]] = {}
        for image in torch.split(images, 1) if names else ():
            last: dict[str, dict[Layout, Tensor]] = {}

            def note(name: str, output: Any, last: dict[str, dict[Layout, Tensor]] = last) -> None:
                tensor = tensor_of(output)
                known = layouts(tensor.shape, QUARTERS + 1, kind) if tensor is not None else ()
                last[name] = {layout: changes(tensor, layout) for layout in known}  # type: ignore[arg-type]

            with torch.no_grad(), _noting(module, note, names):
                run(torch.cat([image, with_quarters_changed(image)[how]]))
            for name, changed in last.items():
                for layout, values in changed.items():
                    found.setdefault(name, {}).setdefault(layout, []).append(values)
        for name, by_layout in found.items():
            for layout, changed_of in by_layout.items():
                verdict = judge(changed_of)
                if how == 0 or verdict.passed > judged[name][layout].passed:
                    judged[name][layout] = verdict
    return judged


def _gradients(module: nn.Module, run: Run, image: Tensor, outputs: Sequence[Output]) -> dict[str, Tensor]:
    """Return the gradients of the logits, weighted so that none cancels, at the outputs that have one."""
    seen: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> None:
        if (tensor := tensor_of(output)) is not None and tensor.requires_grad:
            seen[name] = tensor

    try:
        with torch.enable_grad(), _noting(module, note, {output.name for output in outputs}):
            logits = run(image.clone().requires_grad_(True))
        weighted = (logits * torch.linspace(1, 2, logits.shape[1], device=logits.device)).sum()
        found = torch.autograd.grad(weighted, list(seen.values()), allow_unused=True)
    except RuntimeError:  # no graph, or one that an operation in place has cut
        return {}
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(seen.items(), found, strict=True)
    }


def _passes_on(layer: nn.Module, output: Output) -> bool:
    """Tell whether a module only pools or passes on what others made, or projects their tokens (keys and values)."""
    return isinstance(layer, _NO_TARGETS) or (isinstance(layer, nn.Linear) and len(output.shape) == 3)


def _best(verdicts: Mapping[Layout, Verdict]) -> tuple[Layout, Verdict]:
    """Return the layout that stands the test best."""
    return max(verdicts.items(), key=lambda known: known[1].rank)


def _grid(layout: Layout) -> tuple[int, int]:
    return layout.height, layout.width


def _form(layout: Layout) -> tuple[Any, ...]:
    """Return what a layout has in common with that of a larger image."""
    return layout.kind, layout.prefix, layout.suffix, layout.height / layout.width


def _chosen(output: Output, layout: Layout, verdict: Verdict, carries: str) -> Target:
    return _target(
        output,
        layout,
        f"the last whose places are the image's {verdict} and on each of which the logits depend; {carries}",
    )


def _target(output: Output, layout: Layout, reason: str) -> Target:
    channels = {"channels_first": 1}.get(layout.kind, -1)
    return Target(output.name, output.call, layout, output.shape[channels], output.dtype, reason, output.wrapped)
