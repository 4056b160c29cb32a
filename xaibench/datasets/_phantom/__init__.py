"""The drawing behind `xaibench.datasets.phantom`: `grid` (tools), `anatomy`, `lesions`, `draw`."""
