"""The errors that a user sees: one line, what is wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XaibenchError(Exception):
    """Something the user can mend. The message names the file, field or option and the remedy.

    The command line prints it as one line and exits with `exit_code`; ``--debug`` adds the traceback.
    """

    exit_code = 1


class UsageError(XaibenchError):
    """A wrong option or name on the command line or in a call (exit code 2)."""

    exit_code = 2


class DataError(XaibenchError):
    """A dataset that is missing, incomplete or damaged; names the file."""


class BenchmarkError(XaibenchError):
    """A benchmark file that can't be read; names the file and the key."""


class WeightsError(XaibenchError):
    """Weights that can't be had or don't fit; names the source and what to do instead."""


class PluginError(XaibenchError):
    """A plugin that is unknown, broken or claimed by two distributions."""


class SideEffectError(PluginError):
    """A plugin that changed the classifier or torch's settings, which were put back."""


class NotApplicableError(XaibenchError):
    """An explainer or metric that does not apply to this classifier or data; names what to use instead."""


PLUGIN_ERRORS = (Exception, SystemExit)
"""What foreign code may raise when it is called: `SystemExit` too, or a plugin's ``sys.exit`` would end the run."""


def first_line(error: BaseException, limit: int = 120) -> str:
    """Return the first line of an error's message, without its full stop, to quote inside another message.

    >>> first_line(ValueError("no such key.\\nTry another."))
    'no such key'
    >>> first_line(AssertionError())
    'AssertionError'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(". ")[:limit]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?``, or what there is when nothing is close, as the end of an error message.

    >>> did_you_mean("gradcan", ["gradcam", "cam"])
    "Did you mean 'gradcam'?"
    >>> did_you_mean("zzz", ["gradcam", "cam"])
    'Known: cam, gradcam.'
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    names = ", ".join(" ".join(option.split()) for option in options)  # on one line, whatever a damaged file has
    return f"Known: {names}." if options else "None is installed."
