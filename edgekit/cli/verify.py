"""`edgekit verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.console import json_option, print_json, print_table

if TYPE_CHECKING:
    from edgekit.bundle import Manifest, SampleResult
    from edgekit.cli.targets import Subject


@click.command("verify")
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--device",
    default="here",
    show_default=True,
    metavar="LINK",
    help="here, local, emulator, ssh:[user@]host[:port] or adb:SERIAL.",
)
@click.option("--profile", metavar="NAME|FILE", help="Device to emulate; without it the bundle's own.")
@json_option
def verify(bundle: Path, device: str, profile: str | None, as_json: bool) -> None:
    """Check a BUNDLE's hashes and run its golden samples, here or on a device."""
    from edgekit.bundle import verify_bundle
    from edgekit.cli.targets import open_subject, profile_for
    from edgekit.deploy import results_data, verify_on
    from edgekit.errors import GateFailed

    subject = open_subject(bundle)
    manifest = require_manifest(subject, bundle)
    if device == "here":
        results = verify_bundle(manifest)
    else:
        from edgekit.devices import open_link
        from edgekit.store import Store

        store = Store()
        link = open_link(device, profile_for(profile, manifest, device), store)
        try:
            results = verify_on(link, manifest, subject.backend, subject.artifact, store)
        finally:
            link.close()
    if as_json:
        print_json(
            {
                "bundle": str(manifest.root),
                "device": device,
                "passed": all(r.passed for r in results),
                "samples": results_data(results),
            }
        )
    else:
        sample_rows(results)
    failed = sum(not r.passed for r in results)
    if failed:
        raise GateFailed(
            f"{failed} of {len(results)} golden samples differ on {device}",
            hint="the runtime there computes something else; see min_version in the manifest",
        )


def require_manifest(subject: Subject, path: Path) -> Manifest:
    """The bundle's manifest. Raises UserError for a bare file."""
    from edgekit.errors import UserError

    if subject.manifest is None:
        raise UserError(
            f"{path} is a file without golden samples to compare with",
            hint="give a bundle folder; `edgekit bench` runs bare files",
        )
    return subject.manifest


def sample_rows(results: Sequence[SampleResult]) -> None:
    """Print what came of each golden sample."""
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
