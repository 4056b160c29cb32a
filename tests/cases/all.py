"""All cases, in the order of docs/cases.md."""

from tests.cases import layer, network  # noqa: F401
from tests.cases.base import CASES

__all__ = ["CASES"]
