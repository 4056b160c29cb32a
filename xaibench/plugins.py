"""Make what a plugin names, with options that are checked against its signature first."""

from __future__ import annotations

import inspect
from typing import Any

from xaibench import registry
from xaibench.errors import UsageError, did_you_mean


def build(kind: str, name: str, **options: Any) -> Any:
    """Load a plugin and call it with options.

    What stands behind a colon in the name ("timm:resnet50") goes to the parameter that the plugin's attribute
    ``argument`` names, ``model`` unless it says otherwise.

    Raises:
        PluginError: unknown, broken, or claimed by two distributions.
        UsageError: an option that the plugin does not have, or one that it needs and was not given.
    """
    entry = registry.get(kind, name)
    factory = entry.load()
    if entry.argument is not None:
        options = {getattr(factory, "argument", "model"): entry.argument, **options}
    check_options(factory, f"{entry.kind.singular} {entry.name!r}", options)
    return factory(**options)


def accepts(kind: str, name: str, option: str, *, by_name: bool = False) -> bool:
    """Tell whether a plugin has an option of that name; `by_name`: not as one of any keywords, which it may pass on."""
    parameters = inspect.signature(registry.get(kind, name).load()).parameters.values()
    return any(known.name == option or (known.kind is known.VAR_KEYWORD and not by_name) for known in parameters)


def check_options(factory: Any, what: str, options: dict[str, Any]) -> None:
    """Compare options with a signature.

    Raises:
        UsageError: an unknown option, or a missing one.
    """
    parameters = inspect.signature(factory).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        known = [parameter.name for parameter in parameters]
        for option in options:
            if option not in known:
                raise UsageError(f"{what} has no option {option!r}. {did_you_mean(option, known)}")
    for parameter in parameters:
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and parameter.kind is not parameter.VAR_POSITIONAL and parameter.name not in options:
            raise UsageError(
                f"{what} needs {parameter.name!r}: write NAME:{parameter.name.upper()}, such as timm:resnet50"
            )
