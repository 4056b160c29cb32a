"""Options that several subcommands share."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from xaibench.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


def protocol_options(command: Command) -> Command:
    """Add the options that say what is trained or evaluated on which data."""
    for option in reversed(
        (
            click.option(
                "-b",
                "--benchmark",
                default="phantom",
                show_default=True,
                metavar="NAME",
                help="A benchmark, or its TOML file.",
            ),
            click.option("--data-root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the dataset."),
            click.option(
                "-o",
                "--option",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Replace an option of the classifier.",
            ),
            click.option(
                "--recipe", multiple=True, metavar="KEY=VALUE", help="Replace a field of the training recipe."
            ),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
            click.option("-q", "--quiet", is_flag=True, help="No progress."),
        )
    ):
        command = option(command)
    return command


def devices_option(command: Command) -> Command:
    """Add the option that says how many devices share a training."""
    return click.option(
        "--devices",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        metavar="N",
        help="GPUs (on the CPU: processes) that share a training.",
    )(command)


def engine_options(command: Command) -> Command:
    """Add the options that say where a split is run through."""
    for option in reversed(
        (
            click.option(
                "--engine",
                default="local",
                show_default=True,
                type=click.Choice(["local", "ray"]),
                help="This process, or the workers of a Ray cluster; the scores are the same.",
            ),
            click.option(
                "--address",
                metavar="HOST:PORT",
                help="Of a running Ray cluster, or auto; else $RAY_ADDRESS, else Ray is started here.",
            ),
            click.option(
                "--workers",
                type=click.IntRange(min=1),
                metavar="N",
                help="Ray workers; by default all that the cluster has room for.",
            ),
            click.option("--cpus-per-worker", type=float, metavar="N", help="CPUs of each Ray worker.  [default: 1]"),
            click.option(
                "--gpus-per-worker",
                type=float,
                metavar="N",
                help="GPUs of each Ray worker, or a part of one; by default 1 where the cluster has GPUs.",
            ),
            click.option(
                "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of this process or each worker."
            ),
        )
    ):
        command = option(command)
    return command


def reopen_options(command: Command) -> Command:
    """Add the options that say where a run's data and weights are, to make its maps again."""
    for option in reversed(
        (
            click.option("--data-root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the dataset."),
            click.option(
                "--checkpoint",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="The run's weights, where the cache has them no more.",
            ),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
            click.option("-q", "--quiet", is_flag=True, help="No progress."),
        )
    ):
        command = option(command)
    return command


def batch_size_of(text: str) -> int | Literal["auto"]:
    """Read a batch size.

    Raises:
        UsageError: neither a positive number nor "auto".

    >>> batch_size_of("auto"), batch_size_of("8")
    ('auto', 8)
    """
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size {text!r}: give a number of images from 1, or auto")
    return int(text)


def pairs(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Read KEY=VALUE texts; a value is read as TOML would, else as a string.

    Raises:
        UsageError: no ``=``.

    >>> pairs(["epochs=3", "encoder=efficientnet_b0", "flip=true"], "--recipe")
    {'epochs': 3, 'encoder': 'efficientnet_b0', 'flip': True}
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{option} {text!r}: write KEY=VALUE, such as {option} epochs=3")
        try:
            found[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, KeyError):
            found[key.strip()] = value
        except RecursionError:
            raise UsageError(f"{option} {key.strip()}: its value is nested too deeply") from None
    return found
