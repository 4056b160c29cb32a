"""Kill, corrupt, fill and interrupt runs by the thousand, and count how often the same command mends it.

    python benchmarks/faults.py [--kills 1000] [--corruptions 200] [--full-disks 20] [--seed 0]

Prints the table of docs/faults.md; exits with 1 where a fault was not mended. Mounting small disks needs root; without
it those rows say so, and the limit on a file's size stands alone. Linux. See tests/faults/campaign.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults.campaign import main

if __name__ == "__main__":
    sys.exit(main())
