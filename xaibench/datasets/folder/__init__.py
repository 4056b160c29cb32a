"""Any images of one's own, described by a CSV table or a COCO JSON file; see docs/folder.md."""

from xaibench.datasets.folder.loader import folder

__all__ = ["folder"]
