"""`edgekit cache`."""

from __future__ import annotations

import click

from edgekit.cli.console import json_option, print_json


@click.group("cache")
def cache() -> None:
    """Show or clear the store of artifacts and finished steps."""


@cache.command("size")
@json_option
def size(as_json: bool) -> None:
    """Say where the store is and how much it holds."""
    _print("holds", as_json, clear=False)


@cache.command("clear")
@json_option
def clear(as_json: bool) -> None:
    """Remove everything from the store. Bundles and reports that were written stay."""
    _print("held, now empty", as_json, clear=True)


def _print(verb: str, as_json: bool, *, clear: bool) -> None:
    from edgekit.store import Store

    store = Store()
    used = store.clear() if clear else store.usage()
    if as_json:
        print_json(
            {"root": str(used.root), "bytes": used.bytes, "objects": used.objects, "steps": used.steps}
        )
    else:
        click.echo(
            f"{used.root} {verb}: {used.bytes / 1e6:,.1f} MB, {used.objects} objects, {used.steps} steps"
        )
