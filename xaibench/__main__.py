"""``python -m xaibench`` is ``xaibench``."""

from __future__ import annotations

import sys

from xaibench.cli import main

if __name__ == "__main__":
    sys.exit(main())
