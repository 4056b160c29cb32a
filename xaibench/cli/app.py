"""The group of subcommands, each imported when it is called, and how errors end a program.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from xaibench import __version__
from xaibench.cli.output import printable
from xaibench.errors import XaibenchError, did_you_mean
from xaibench.io.memory import settle_process

# Module in this folder to short help: here, so that the help imports no subcommand. One whose module does not exist yet
# is left out.
COMMANDS = {
    "run": "Explain a benchmark's images with a classifier and score the maps.",
    "train": "Train a classifier with a benchmark's recipe.",
    "compare": "Compare runs of one benchmark, with paired tests.",
    "leaderboard": "Check and add runs to a leaderboard, and write its page.",
    "shortcut": "Tell a cheating classifier from an honest one by its explanations.",
    "rate": "Have a person mark maps hit or miss, and read the marks back.",
    "figures": "Draw the paper's figures 5 to 9 of a run, ready for print.",
    "report": "Write figures and tables of runs as one HTML file.",
    "list": "List classifiers, explainers, metrics, datasets and benchmarks.",
    "show": "Show what a plugin is and which parameters it takes.",
    "data": "Check a dataset's folder: what is there, missing, wrong.",
    "doctor": "Examine a classifier and its explainers before a long evaluation.",
    "reproduce": "Rerun the paper's tables and set them beside the published ones.",
    "store": "List, verify or prune what runs have kept: predictions, maps, scores.",
    "plugin": "Start a plugin package of your own, or check one.",
}
_FOLDER = Path(__file__).resolve().parent
INTERRUPTED = 130


@dataclass
class State:
    """What the error handler must know of the options."""

    debug: bool = False


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(State).debug = True


def _debug_option(*, hidden: bool) -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        hidden=hidden,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )


def _accept_debug(command: click.Command) -> None:
    """Let ``--debug`` stand behind the subcommand too, where people add it."""
    if not any("--debug" in parameter.opts for parameter in command.params):
        command.params.append(_debug_option(hidden=True))
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _accept_debug(subcommand)


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if (_FOLDER / f"{name}.py").is_file() or (_FOLDER / name).is_dir()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"{__package__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        _accept_debug(command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):  # by rich, not by a plugin
                raise
            raise XaibenchError(
                f"a plugin ended the process, by sys.exit({error.code!r}). --debug shows where it did."
            ) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in (known := self.list_commands(ctx)):
            ctx.fail(f"there is no command {args[0]!r}. {did_you_mean(args[0], known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    name="xaibench",
    params=[_debug_option(hidden=False)],
    context_settings={"help_option_names": ["-h", "--help"], "obj": None},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.",
)
@click.version_option(__version__, prog_name="xaibench")
def cli() -> None:
    """Benchmark explanations of image classifiers on chest X-rays.

    Does the map point at the lesion, more than chance would, and more than another explainer's?
    """


def script() -> int:
    """Run as the console script: as `main`, and leave without taking torch's modules apart, which costs two seconds."""
    code = 0

    def leave() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)  # registered first, so it runs last
    code = main()
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process when None.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted. An error is one line on stderr; ``--debug`` puts
        the traceback before it.
    """
    state = State()
    settle_process()
    # Pillow's, of an image that is then refused with an error of one line
    warnings.filterwarnings("ignore", message=r"Image size .* exceeds limit of")
    try:
        result = cli.main(
            None if arguments is None else [*arguments], prog_name="xaibench", standalone_mode=False, obj=state
        )
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted", state)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The latter by rich or click: the reader (head, less) has gone, which is its right. Python would complain once
        # more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except click.ClickException as error:
        _say(_usage(error), state)
        return error.exit_code
    except XaibenchError as error:
        _say(str(error), state)
        return error.exit_code
    except OSError as error:
        _say(_os_error(error), state)
        return 1
    except Exception as error:
        _say(f"{type(error).__name__}: {error}. Not expected: --debug shows where it comes from.", state)
        return 1
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        end = "" if message.endswith((".", "?")) else "."
        return f"{message}{end} See {error.ctx.command_path} --help."
    return message


def _os_error(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on device{place}: free some, then run the same command again."
    if error.errno == getattr(errno, "EDQUOT", None):
        return f"disk quota exceeded{place}: free some space, then run the same command again."
    if error.strerror:
        return f"{error.strerror}{place}. --debug shows where it comes from."
    return f"{type(error).__name__}: {error}. --debug shows where it comes from."


def _say(message: str, state: State) -> None:
    with contextlib.suppress(OSError):  # a file that takes no more: the exit code says it
        if state.debug and sys.exc_info()[0] is not None:
            click.echo(traceback.format_exc(), err=True, nl=False)
        prefix: Any = click.style("error:", fg="red", bold=True)
        click.echo(f"{prefix} {printable(' '.join(message.split()))}", err=True)
