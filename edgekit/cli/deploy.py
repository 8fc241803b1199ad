"""`edgekit deploy`."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.console import json_option, print_json, print_rows


@click.command("deploy")
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--device", required=True, metavar="LINK", help="ssh:[user@]host[:port], adb:SERIAL, local or emulator."
)
@click.option("--profile", metavar="NAME|FILE", help="Device to emulate; without it the bundle's own.")
@click.option("--keep", is_flag=True, help="Leave the bundle on the device when its golden samples pass.")
@json_option
def deploy(bundle: Path, device: str, profile: str | None, keep: bool, as_json: bool) -> None:
    """Push a BUNDLE to a device, check it there and run its golden samples there.

    Every file's hash is compared on the device. Without --keep nothing is left there.
    """
    from edgekit.cli.targets import open_subject, profile_for
    from edgekit.cli.verify import require_manifest, sample_rows
    from edgekit.deploy import deploy as run_deploy
    from edgekit.deploy import results_data
    from edgekit.devices import open_link
    from edgekit.errors import GateFailed
    from edgekit.store import Store

    subject, store = open_subject(bundle), Store()
    manifest = require_manifest(subject, bundle)
    link = open_link(device, profile_for(profile, manifest, device), store)
    try:
        done = run_deploy(link, manifest, subject.backend, subject.artifact, store, keep=keep)
    finally:
        link.close()
    if as_json:
        print_json(
            {
                "bundle": str(manifest.root),
                "device": device,
                "files": done.files,
                "bytes": done.bytes,
                "passed": done.passed,
                "kept": done.kept,
                "stand_in": done.stand_in,
                "samples": results_data(done.results),
            }
        )
    else:
        print_rows([("pushed", f"{done.files} files, {done.bytes / 1e6:.2f} MB, hashes equal")])
        sample_rows(done.results)
        if done.stand_in:
            print_rows([("no TensorRT was run", f"{done.stand_in} answered")])
        print_rows([("on the device", done.kept or "nothing left")])
    if not done.passed:
        failed = sum(not r.passed for r in done.results)
        raise GateFailed(
            f"{failed} of {len(done.results)} golden samples differ on {device}; nothing was left there",
            hint="the runtime there computes something else; see min_version in the manifest",
        )
