"""`python -m edgekit` is the `edgekit` command."""

from __future__ import annotations

from edgekit.cli.main import entry

if __name__ == "__main__":
    entry()
