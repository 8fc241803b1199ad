"""Measuring one file over one link: latency where a clock means something, instructions where not."""

from __future__ import annotations

from edgekit.bench.series import Series, SeriesPlan, bench_series
from edgekit.bench.single import Bench, bench

__all__ = ["Bench", "Series", "SeriesPlan", "bench", "bench_series"]
