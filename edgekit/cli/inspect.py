"""`edgekit inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.console import json_option, print_json, print_rows, print_table
from edgekit.cli.targets import open_subject


@click.command("inspect")
@click.argument("path", metavar="FILE|BUNDLE", type=click.Path(exists=True, path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Show what a model FILE (or the file of a BUNDLE) is made of.

    Operators with precision, MACs, stored bytes and whether XNNPACK takes them, quantisation of inputs and
    outputs, transposes, and the share of int8 operators.
    """
    from edgekit.backends.tflite.inspection import inspect_file

    found = inspect_file(open_subject(path).artifact)
    if as_json:
        print_json(found)
        return
    print_rows(
        [
            ("File", f"{found['path']}, {found['bytes']:,} bytes"),
            *((f"Input {t['name']}", _tensor(t)) for t in found["inputs"]),
            *((f"Output {t['name']}", _tensor(t)) for t in found["outputs"]),
            (
                "Operators",
                f"{found['ops']}, {found['int8_share']:.0f} % int8, {found['transposes']} transposes",
            ),
            ("MACs", f"{found['macs']:,}"),
            ("XNNPACK", f"{found['accelerated']} of {found['ops']} operators"),
        ]
    )
    rows = [
        (
            str(u["index"]),
            u["op"],
            u["precision"],
            "x".join(map(str, u["output_shape"])),
            f"{u['macs']:,}",
            f"{u['weight_bytes']:,}",
            u["refused"] or "yes",
            u["name"],
        )
        for u in found["units"]
    ]
    print_table(("#", "op", "precision", "output", "MACs", "bytes", "XNNPACK", "name"), rows)


def _tensor(t: dict[str, Any]) -> str:
    text = f"{'x'.join(map(str, t['shape']))} {t['dtype']}"
    if t["scale"] is not None:
        text += f", scale {t['scale']:.6g}, zero point {t['zero_point']}"
    return text
