"""All cases, in the order of docs/cases.md."""

from tests.cases import network, layer, image, missing, numbers  # noqa: F401, I001
from tests.cases.base import CASES

__all__ = ["CASES"]
