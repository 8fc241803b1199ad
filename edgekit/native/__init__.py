"""Programs in C that run beside a model: the LiteRT runner and the instruction counter.

They are compiled on demand, for the host or for arm64, and cached in the store.
"""

from edgekit.native.build import counter_plugin, instruction_clock, litert_runtime

__all__ = ["counter_plugin", "instruction_clock", "litert_runtime"]
