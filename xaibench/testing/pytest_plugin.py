"""The kit as a pytest plugin: the fixture `conforms`. Light: it comes along wherever xaibench is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Conforms = Callable[..., None]


@pytest.fixture(scope="session")
def conforms() -> Conforms:
    """Fail with every finding unless a registered plugin conforms: ``conforms("explainers", "mine")``.

    Further arguments go to the kit's function of the kind, such as ``classifier`` or ``classes``. Warnings do not fail.
    """

    def check(kind: str, name: str, *arguments: Any, **options: Any) -> None:
        __tracebackhide__ = True
        from xaibench import testing
        from xaibench.registry import Kind

        function = getattr(testing, f"check_{Kind.parse(kind).singular}")
        found = [finding for finding in function(name, *arguments, **options) if finding.severity == "error"]
        if found:
            pytest.fail("\n".join(f"{finding.check}: {finding}" for finding in found), pytrace=False)

    return check
