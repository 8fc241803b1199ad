"""`edgekit build`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgekit.cli.console import json_option, print_json, print_rows, progress
from edgekit.cli.options import SOURCES_HELP, build_options, to_request, with_recipe


@click.command("build", epilog=SOURCES_HELP)
@build_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Folder for <model>/<profile>/ with bundle and report.",
)
@json_option
def build(out: Path, as_json: bool, **options: Any) -> None:
    """Compress, convert, verify and measure MODEL for a device, and write a bundle and a report.

    Exit code 6 means that the bundle was made but a gate failed; it is kept as a candidate.
    """
    from edgekit.build import build as run_build
    from edgekit.errors import GateFailed
    from edgekit.report import summary_lines

    options = with_recipe(options)
    sources, request = to_request(options)
    with progress() as emit:
        built = run_build(
            sources,
            options["profile"],
            request,
            out=out,
            seed=options["seed"],
            emit=emit,
            command=["edgekit", *sys.argv[1:]],
        )
    if as_json:
        print_json(built.report)
    else:
        print_rows(
            [
                *summary_lines(built.report),
                ("Bundle", str(built.folder / "bundle")),
                ("Report", str(built.folder / "report.html")),
            ]
        )
    if built.failed_gates:
        names = ", ".join(g.name for g in built.failed_gates)
        aimed = built.report.get("target_search")
        why = "" if aimed is None or aimed["reached"] else f" ({aimed['reason']})"
        raise GateFailed(
            f"the file was built, but it does not pass: {names}{why}",
            hint=f"see {built.folder / 'report.html'}; the candidate is kept in {built.folder / 'bundle'}",
        )
