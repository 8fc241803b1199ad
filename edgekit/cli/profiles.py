"""`edgekit profiles`: list, show, check and draft device profiles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.profiles import DeviceProfile

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_COLUMNS = ("id", "device", "cores", "targets", "emulator")


@click.group("profiles")
def profiles() -> None:
    """List, show, check and draft device profiles."""


@profiles.command("list", short_help="List the profiles that ship with edgekit.")
@_json_option
def list_command(as_json: bool) -> None:
    """List the profiles that ship with edgekit; each can be given to --profile by its id."""
    from edgekit.cli.console import console, print_json
    from edgekit.profiles import list_profiles

    shipped = list_profiles()
    if as_json:
        print_json([_row_data(profile) for profile in shipped])
        return
    rows = [_row(profile) for profile in shipped]
    out = console()
    if out.is_terminal:
        from rich.table import Table
        from rich.text import Text

        table = Table(*_COLUMNS)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        out.print(table)
    else:
        for line in aligned([_COLUMNS, *rows]):
            click.echo(line)


@profiles.command("show", short_help="Print a profile with all that it inherits, and its sources.")
@click.argument("profile")
@_json_option
def show_command(profile: str, as_json: bool) -> None:
    """Print PROFILE (an id or a file) with all that it inherits and where each figure comes from."""
    from edgekit.cli.console import print_json
    from edgekit.profiles import load_profile

    found = load_profile(profile)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in render(found):
        click.echo(line)


@profiles.command("check", short_help="Check profiles: do they load, has each figure a source.")
@click.argument("names", metavar="PROFILE...", nargs=-1, required=True)
@_json_option
def check_command(names: tuple[str, ...], as_json: bool) -> None:
    """Check each PROFILE (an id or a file): does it load, has each figure a source, does it make sense."""
    from edgekit.cli.console import print_json
    from edgekit.errors import ProfileError

    results = {name: _findings(name) for name in names}
    if as_json:
        print_json([{"profile": name, "ok": not found, "findings": found} for name, found in results.items()])
    else:
        for name, found in results.items():
            click.echo(f"{name}: ok" if not found else f"{name}:")
            for text in found:
                click.echo(f"  - {text}")
    bad = [name for name, found in results.items() if found]
    if bad:
        count = sum(len(results[name]) for name in bad)
        raise ProfileError(
            f"{count} finding{'s' if count > 1 else ''} in {', '.join(bad)}",
            hint=None if as_json else "each line above names the key to change",
        )


@profiles.command("detect", short_help="Draft a profile of the device behind a link.")
@click.argument("link")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="File to write; without it the draft is printed.",
)
@_json_option
def detect_command(link: str, out: Path | None, as_json: bool) -> None:
    """Draft a profile of the device behind LINK: ssh:[user@]host[:port], adb:SERIAL or local.

    Each figure has its source; what the device does not tell is left out.
    """
    from edgekit.devices import open_link
    from edgekit.devices.detect import draft_profile
    from edgekit.errors import UserError
    from edgekit.store import Store

    if link.partition(":")[0] == "emulator":
        raise UserError("the emulator is made from a profile: there is none to detect", hint="name a device")
    if out is not None and out.exists():
        raise UserError(f"{out} exists already", hint="name another file, or remove it")
    opened = open_link(link, None, Store())
    try:
        identifier, text = draft_profile({"link": link, **opened.facts()})
    finally:
        opened.close()
    if out is not None:
        from edgekit.store import write_atomic

        write_atomic(out, text)
    if as_json:
        from edgekit.cli.console import print_json

        print_json({"id": identifier, "toml": text, "file": None if out is None else str(out)})
    elif out is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"wrote {out} with the profile {identifier}; check it: edgekit profiles check {out}")


def _findings(name: str) -> list[str]:
    """Lint findings, or the one reason why the profile does not load."""
    from edgekit.errors import ProfileError
    from edgekit.profiles import lint, load_profile

    try:
        return lint(load_profile(name))
    except ProfileError as exc:
        return [f"{exc} ({exc.hint})" if exc.hint else str(exc)]


def _row(profile: DeviceProfile) -> tuple[str, str, str, str, str]:
    cores = ", ".join(
        f"{c.count}x {c.microarchitecture}" + (f" {c.ghz:g} GHz" if c.ghz else "") for c in profile.cores
    )
    targets = ", ".join(f"{t.runtime}/{t.delegate}" for t in profile.targets)
    emulator = profile.emulator.cpu if profile.emulator else "-"
    return profile.id, profile.title, cores or "-", targets, emulator


def _row_data(profile: DeviceProfile) -> dict[str, Any]:
    return {
        "id": profile.id,
        "title": profile.title,
        "abstract": profile.abstract,
        "cores": [
            c.model_dump(mode="json", include={"microarchitecture", "count", "ghz"}) for c in profile.cores
        ],
        "targets": [{"runtime": t.runtime, "delegate": t.delegate} for t in profile.targets],
        "emulator": profile.emulator.cpu if profile.emulator else None,
    }


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with columns of equal width, for pipes and logs."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def render(profile: DeviceProfile) -> Iterator[str]:
    """The merged profile as TOML; the sources of a section are comments under it."""
    data = profile.model_dump(mode="json", exclude_none=True, exclude={"sources", "extends"})
    if profile.extends:
        yield f"# extends {profile.extends}; shown with all that it inherits"
    sections = {key: value for key, value in data.items() if _is_section(value)}
    for key, value in data.items():
        if key not in sections:
            yield f"{key} = {_toml(key, value)}"
    for key, value in sections.items():
        tables = value if isinstance(value, list) else [value]
        for table in tables:
            yield ""
            yield f"[[{key}]]" if isinstance(value, list) else f"[{key}]"
            for name, item in table.items():
                yield f"{name} = {_toml(name, item)}"
        for path, source in profile.sources.items():
            if path.split(".")[0] == key:
                yield f"# source of {path}: {_one_line(source)}"


def _one_line(text: str) -> str:
    """A comment ends with its line, and a file of someone else must not steer the terminal."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable())


def _is_section(value: Any) -> bool:
    return (isinstance(value, Mapping) and bool(value)) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )


def _toml(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(k, v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(key, item) for item in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and key in ("midr_part", "midr_implementer"):
        return f"{value:#05x}" if key == "midr_part" else f"{value:#04x}"
    # A JSON string, number or boolean is one of TOML too, but for the escape of DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
