"""The command line: `main` is the script's entry point; a subcommand is a module here with an attribute `command`."""

from __future__ import annotations

from xaibench.cli.app import main

__all__ = ["main"]
