"""The command line: `script` is the script's entry point; a subcommand is a module here with an attribute `command`."""

from __future__ import annotations

from xaibench.cli.app import main, script

__all__ = ["main", "script"]
