"""`edgekit plan`."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli.console import json_option, print_json, print_rows, progress
from edgekit.cli.options import SOURCES_HELP, build_options, to_request, with_recipe


@click.command("plan", epilog=SOURCES_HELP)
@build_options
@json_option
def plan(as_json: bool, **options: Any) -> None:
    """Load MODEL and data, explain what `build` would do with them and why, and stop."""
    from edgekit.build import plan_build
    from edgekit.plan import explain
    from edgekit.types import to_json

    options = with_recipe(options)
    sources, request = to_request(options)
    with progress() as emit:
        inputs, plans = plan_build(sources, options["profile"], request, seed=options["seed"], emit=emit)
    if as_json:
        shown = [to_json(p) | {"input_warnings": list(inputs.warnings)} for p in plans]
        print_json(shown[0] if len(shown) == 1 else shown)
        return
    for made in plans:
        print_rows(list(explain(made)))
    print_rows([("warning", w) for w in inputs.warnings])
