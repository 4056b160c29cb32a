"""Training of GCM's decoder with and without `xaibench.io.memory.keep_freed_memory`, side by side in one run.

    python benchmarks/speed/malloc.py

Each side runs in a process of its own, in turn, three times; prints the median milliseconds an image and the ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

BATCH, SIZE, STEPS = 32, 128, 4


def measure(keep: bool) -> float:
    """Return milliseconds an image of a training step's forward and backward pass, the median after a first one."""
    import torch

    from xaibench.classifiers.gcm import build_decoder
    from xaibench.io.memory import keep_freed_memory

    if keep and not keep_freed_memory():
        sys.exit("this system's malloc can't be told to keep memory: nothing to compare")
    decoder = build_decoder(112, 4, "linear", 3).to(memory_format=torch.channels_last).train()
    features = torch.randn(BATCH, 112, SIZE // 16, SIZE // 16).contiguous(memory_format=torch.channels_last)
    images = torch.rand(BATCH, 1, SIZE, SIZE)
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        (decoder(features) * images).mean((-1, -2)).square().sum().backward()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]) / BATCH * 1000


def main() -> None:
    """Measure both sides in turn and print them."""
    found: dict[str, list[float]] = {"default": [], "kept": []}
    for _ in range(3):
        for side, times in found.items():
            output = subprocess.run([sys.executable, __file__, side], capture_output=True, text=True, check=True).stdout
            times.append(float(output))
    default, kept = (statistics.median(times) for times in found.values())
    print(f"default malloc   {default:6.1f} ms an image")
    print(f"memory kept      {kept:6.1f} ms an image")
    print(f"ratio            {default / kept:6.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(sys.argv[1] == "kept"))
    else:
        main()
