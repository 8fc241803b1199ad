"""bench, deploy, verify, devices and profiles detect, over real clients to device ends on loopback."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boards.machine import Machine

from edgekit.cli.main import run

pytestmark = pytest.mark.emulator
KINDS = ("local", "emulator", "ssh", "adb")


@pytest.fixture
def bundle(tiny_build: Any) -> Path:
    """An int8 TFLite bundle for the Raspberry Pi 4."""
    return Path(tiny_build.built.folder) / "bundle"


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """Run a command with --json: exit code, what it printed, and its errors."""

    def call(*arguments: str | Path) -> tuple[int, Any, str]:
        code = run(["-q", *map(str, arguments), "--json"])
        printed = capfd.readouterr()
        return code, json.loads(printed.out) if printed.out.strip() else None, printed.err

    return call


def _runs(machine: Machine) -> list[str]:
    return [] if machine.kind == "emulator" else ["--runs", "6", "--warmup", "1", "--min-seconds", "0"]


def test_the_same_outputs_and_a_profile_from_each(
    bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any]
) -> None:
    digests = {}
    for kind in KINDS:
        machine = make_machine(kind)
        arguments = [
            "bench",
            bundle,
            "--device",
            machine.spec,
            "--profile",
            "pi4",
            "--per-op",
            *_runs(machine),
        ]
        code, found, errors = said(*arguments)
        assert code == 0, errors
        (result,) = found["results"]
        digests[kind] = result["outputs_sha256"]
        metrics = {m["metric"]: m for m in result["measurements"]}
        unit = "instructions" if kind == "emulator" else "us"
        first = metrics["instructions" if kind == "emulator" else "latency"]
        assert len(first["detail"]["ops"]) > 5 and all(unit in op for op in first["detail"]["ops"])
        assert (metrics["latency"]["median"] is None) is (kind == "emulator")
        assert first["source"] == {"local": "host", "emulator": "emulator"}.get(kind, "device")
        assert machine.is_clean()
    assert len(set(digests.values())) == 1, digests


def test_several_devices_in_one_command(
    bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any]
) -> None:
    specs = [make_machine(kind).spec for kind in ("ssh", "adb")]
    devices = [part for spec in (*specs, "ssh:pi@127.0.0.1:1") for part in ("--device", spec)]
    code, found, errors = said("bench", bundle, *devices, "--runs", "6", "--min-seconds", "0")
    assert code == 7 and "ssh:pi@127.0.0.1:1 cannot be reached" in errors, errors
    assert [r["link"] for r in found["results"]] == specs
    assert [r["device"]["soc"] for r in found["results"]] == ["BCM2835", "PERSONA-A76"]
    for result in found["results"]:
        latency = [m for m in result["measurements"] if m["metric"] == "latency"]
        assert len(latency) == 1 and latency[0]["source"] == "device"
    (failed,) = found["errors"]
    assert failed["link"] == "ssh:pi@127.0.0.1:1" and failed["hint"]


def test_the_battery_of_a_phone_is_shown(
    bundle: Path, make_machine: Callable[[str], Machine], capfd: pytest.CaptureFixture[str]
) -> None:
    spec = make_machine("adb").spec
    assert run(["-q", "bench", str(bundle), "--device", spec, "--runs", "6", "--min-seconds", "0"]) == 0
    assert "battery 87 % 30.5 °C charging" in " ".join(capfd.readouterr().out.split())


def test_deploy_to_a_phone(
    bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any]
) -> None:
    machine = make_machine("adb")
    code, found, errors = said("deploy", bundle, "--device", machine.spec)
    assert code == 0, errors
    assert found["passed"] and found["kept"] is None and found["files"] > 5
    assert len(found["samples"]) > 0 and all(s["max_abs"] == 0 for s in found["samples"])
    assert machine.is_clean()


def test_deploy_that_stays(
    bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any]
) -> None:
    machine = make_machine("ssh")
    code, found, errors = said("deploy", bundle, "--device", machine.spec, "--keep")
    assert code == 0 and found["passed"], errors
    kept = machine.end.root / found["kept"].lstrip("/")
    assert machine.is_clean()
    names = {p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file()}
    assert {p.relative_to(kept) for p in kept.rglob("*") if p.is_file()} == names
    assert all((kept / n).read_bytes() == (bundle / n).read_bytes() for n in names)


def test_deploy_of_a_model_that_computes_something_else(
    bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any], tmp_path: Path
) -> None:
    """Expected outputs changed, hashes of the manifest made to fit: as a runtime that computes otherwise."""
    import hashlib
    import shutil

    other = tmp_path / "bundle"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    entry = manifest["golden"]["samples"][0]["outputs"][0]
    raw = bytearray((other / entry["path"]).read_bytes())
    raw[-1] ^= 0x40
    (other / entry["path"]).write_bytes(raw)
    entry["sha256"] = hashlib.sha256(raw).hexdigest()
    (other / "manifest.json").write_text(json.dumps(manifest))
    machine = make_machine("ssh")
    code, found, errors = said("deploy", other, "--device", machine.spec, "--keep")
    assert code == 6 and "1 of " in errors, errors
    assert found["kept"] is None and not found["passed"]
    assert machine.is_clean()


def test_deploy_to_a_phone_that_goes_away(
    bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any]
) -> None:
    machine = make_machine("adb")
    machine.end.faults.cut_send_after = 200_000
    code, found, errors = said("deploy", bundle, "--device", machine.spec)
    machine.mend()
    assert code == 7 and found is None and "error:" in errors, errors
    assert machine.is_clean()


def test_keep_is_for_devices(bundle: Path, said: Callable[..., Any]) -> None:
    code, _, errors = said("deploy", bundle, "--device", "local", "--keep")
    assert code == 4 and "local is no device" in errors


def test_verify_on_a_device(
    bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any]
) -> None:
    machine = make_machine("adb")
    code, found, errors = said("verify", bundle, "--device", machine.spec)
    assert code == 0 and found["passed"], errors
    assert machine.is_clean()


def test_devices(make_machine: Callable[[str], Machine], said: Callable[..., Any], sealed_home: Path) -> None:
    board, phone = make_machine("ssh"), make_machine("adb")
    phone.open().close()
    config = sealed_home / ".ssh" / "config"
    config.parent.mkdir(mode=0o700, exist_ok=True)
    config.write_text("Include more*\nHost lab1 *.lan !x\n  HostName 10.0.0.1\n")
    (config.parent / "more.conf").write_text("Host=lab2\n")
    try:
        code, found, errors = said("devices")
        assert code == 0, errors
        rows = {r["link"]: r for r in found}
        assert list(rows)[-2:] == ["ssh:lab2", "ssh:lab1"]
        assert rows["ssh:lab1"]["state"] == "not asked"
        assert rows[phone.spec]["state"] == "ready"
        assert rows[phone.spec]["can_run"] == ["tflite (edgekit's runner)", "executorch (edgekit's runner)"]
        assert rows[phone.spec]["facts"]["os"] == "Android 14"
        code, found, errors = said("devices", board.spec, "ssh:pi@127.0.0.1:1")
        assert code == 0, errors
        assert [r["state"] == "ready" for r in found] == [True, False]
        assert "cannot be reached" in found[1]["state"]
    finally:
        for path in config.parent.iterdir():
            path.unlink()


@pytest.mark.parametrize("kind", ["ssh", "adb", "local"])
def test_a_detected_profile_passes_the_check_and_is_true(
    kind: str, make_machine: Callable[[str], Machine], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from edgekit.profiles import load_profile

    out = tmp_path / "found.toml"
    assert run(["profiles", "detect", make_machine(kind).spec, "--out", str(out)]) == 0
    assert run(["profiles", "check", str(out)]) == 0, capfd.readouterr().out
    profile = load_profile(str(out))
    if kind == "ssh":
        shipped = load_profile("pi4")
        (core,), (real,) = profile.cores, shipped.cores
        assert (core.microarchitecture, core.count, core.ghz) == (
            real.microarchitecture,
            real.count,
            real.ghz,
        )
        assert core.midr_part == real.midr_part and profile.memory.mib == shipped.memory.mib
        assert profile.caches.l1i == shipped.caches.l1i and profile.caches.l2 == shipped.caches.l2
        assert profile.constraints.channel_multiple == 8
    if kind == "adb":
        assert profile.os.abi == "arm64-v8a" and profile.constraints.channel_multiple == 16
        assert profile.source_of("cores.0.ghz")
    assert run(["profiles", "detect", make_machine(kind).spec, "--out", str(out)]) == 2, "it exists"


@pytest.mark.parametrize(
    ("fault", "words"), [("refuse_keys", "unauthorized"), ("silent", "offline|cannot be reached")]
)
def test_a_phone_that_cannot_be_used(
    fault: str, words: str, bundle: Path, make_machine: Callable[[str], Machine], said: Callable[..., Any]
) -> None:
    machine = make_machine("adb")
    subprocess.run(["adb", "disconnect"], check=True, capture_output=True)
    machine.end.keys.clear()
    setattr(machine.end.faults, fault, True)
    try:
        code, found, errors = said("deploy", bundle, "--device", machine.spec)
        assert code == 7 and found is None and re.search(words, errors), errors
        assert "Traceback" not in errors and "next:" in errors
    finally:
        setattr(machine.end.faults, fault, False)
        subprocess.run(["adb", "disconnect"], check=True, capture_output=True)
