"""The doctor: what may be wrong with a classifier and its explainers, found in seconds before a long evaluation."""

from __future__ import annotations

from xaibench.doctor.diagnose import Patient, diagnose, glance

__all__ = ["Patient", "diagnose", "glance"]
