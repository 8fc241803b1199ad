"""`edgekit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.console import json_option, print_json, print_table


@click.command("verify")
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--device", default="here", show_default=True, metavar="LINK", help="here, local or emulator.")
@click.option("--profile", metavar="NAME|FILE", help="Device to emulate; without it the bundle's own.")
@json_option
def verify(bundle: Path, device: str, profile: str | None, as_json: bool) -> None:
    """Check a BUNDLE's hashes and run its golden samples, here or on a device."""
    from edgekit.bundle import verify_bundle
    from edgekit.cli.targets import open_subject, profile_for
    from edgekit.errors import GateFailed, UserError

    subject = open_subject(bundle)
    manifest = subject.manifest
    if manifest is None:
        raise UserError(
            f"{bundle} is a file without golden samples to compare with",
            hint="give a bundle folder; `edgekit bench` runs bare files",
        )
    infer = None
    if device != "here":
        from edgekit.bench import bench
        from edgekit.devices import open_link
        from edgekit.store import Store
        from edgekit.types import RunProtocol

        store = Store()
        link = open_link(device, profile_for(profile, manifest, device), store)
        backend = subject.backend
        once = RunProtocol(warmup=0, runs=1, threads=1)

        def infer(inputs: Any) -> Any:
            return bench(backend, subject.artifact, inputs, link, store=store, protocol=once).outputs

    results = verify_bundle(manifest, infer)
    if as_json:
        print_json(
            {
                "bundle": str(manifest.root),
                "device": device,
                "passed": all(r.passed for r in results),
                "samples": [
                    {"index": r.index, "max_abs": r.max_abs, "mismatched": r.mismatched, "passed": r.passed}
                    for r in results
                ],
            }
        )
    else:
        rows = [
            (
                str(r.index),
                "equal" if r.max_abs == 0 else f"{r.max_abs:.3g}",
                str(r.mismatched),
                "ok" if r.passed else "FAILED",
            )
            for r in results
        ]
        print_table(("sample", "largest difference", "beyond tolerance", "result"), rows)
    failed = sum(not r.passed for r in results)
    if failed:
        raise GateFailed(
            f"{failed} of {len(results)} golden samples differ on {device}",
            hint="the runtime there computes something else; see min_version in the manifest",
        )
