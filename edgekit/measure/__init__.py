"""Turning samples into figures that can be compared."""

from edgekit.measure.statistics import Summary, summarize

__all__ = ["Summary", "summarize"]
