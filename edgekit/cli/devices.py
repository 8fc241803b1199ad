"""`edgekit devices`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.console import json_option, print_json, print_table

if TYPE_CHECKING:
    from edgekit.store import Store

_COLUMNS = ("link", "state", "device", "can run")


@click.command("devices")
@click.argument("links", metavar="[LINK]...", nargs=-1)
@click.option("--probe", is_flag=True, help="Also connect to the hosts of the ssh configuration.")
@json_option
def devices(links: tuple[str, ...], probe: bool, as_json: bool) -> None:
    """List devices that can be reached: those of adb, and the hosts of ~/.ssh/config.

    Devices of adb are asked what they can run; hosts of ssh only when they are named, as
    ssh:[user@]host[:port], or with --probe.
    """
    from edgekit.store import Store

    store = Store()
    rows = [_asked(link, store) for link in links] if links else _listed(store, probe)
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no devices: adb lists none, and ~/.ssh/config names no host", err=True)
    print_table(_COLUMNS, [(r["link"], r["state"], _words(r), ", ".join(r["can_run"])) for r in rows])


def _listed(store: Store, probe: bool) -> list[dict[str, Any]]:
    from edgekit.devices.adb import attached
    from edgekit.devices.listing import configured_hosts
    from edgekit.errors import MissingDependency

    try:
        phones = attached()
    except MissingDependency as exc:
        click.echo(f"adb: {exc}; {exc.hint}", err=True)
        phones = []
    rows = []
    for phone in phones:
        link = f"adb:{phone.serial}"
        rows.append(_asked(link, store) if phone.state == "device" else _row(link, phone.state))
    for host in configured_hosts():
        rows.append(_asked(f"ssh:{host}", store) if probe else _row(f"ssh:{host}", "not asked"))
    return rows


def _asked(spec: str, store: Store) -> dict[str, Any]:
    """One row, with what the device says; an error is the device's state."""
    from edgekit.devices import open_link
    from edgekit.devices.abilities import PACKAGES, abilities
    from edgekit.devices.remote import RemoteLink
    from edgekit.errors import DeviceError, Unsupported

    try:
        link = open_link(spec, None, store)
        try:
            facts = link.facts()
            packages = link.packages(PACKAGES) if isinstance(link, RemoteLink) else None
        finally:
            link.close()
    except (DeviceError, Unsupported) as exc:
        return _row(spec, str(exc), hint=exc.hint)
    return _row(spec, "ready", facts=facts, can_run=abilities(facts, packages))


def _row(
    link: str,
    state: str,
    *,
    facts: dict[str, Any] | None = None,
    can_run: list[str] | None = None,
    hint: str | None = None,
) -> dict[str, Any]:
    return {"link": link, "state": state, "hint": hint, "facts": facts, "can_run": can_run or []}


def _words(row: dict[str, Any]) -> str:
    facts = row["facts"] or {}
    return ", ".join(str(facts[k]) for k in ("name", "soc", "os", "arch") if facts.get(k))
