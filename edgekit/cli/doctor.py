"""`edgekit doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from edgekit.cli.console import json_option, print_json, print_table


@click.command("doctor")
@json_option
def doctor(as_json: bool) -> None:
    """Look at Python, packages, compilers, emulator and disk; name what is missing and what mends it.

    Exit code 3 when something that every build needs is missing or of a wrong version.
    """
    from edgekit.doctor import examine
    from edgekit.errors import MissingDependency
    from edgekit.store import Store

    findings = examine(Store())
    if as_json:
        print_json([asdict(f) for f in findings])
    else:
        print_table(
            ("part", "state", "found", "needed for"),
            [(f.name, f.state, f.detail, f.needed_for) for f in findings],
        )
        for f in findings:
            if f.mend:
                click.echo(f"{f.name}: {f.mend}")
    broken = [f for f in findings if f.required and f.state != "ok"]
    if broken:
        raise MissingDependency(
            f"{len(broken)} required parts are missing or of a wrong version: "
            + ", ".join(f.name for f in broken),
            hint=broken[0].mend,
        )
