"""What is read from what machines print of themselves, and the profiles drafted from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.devices.abilities import abilities
from edgekit.devices.base import Battery
from edgekit.devices.detect import draft_profile
from edgekit.devices.remote.facts import read_conditions, read_facts
from edgekit.errors import Unsupported
from edgekit.profiles import lint, load_profile

PHONE = """
== thermal
battery 31000
cpu-0-0 45500
broken -273000
modem -
== clocks
1800000
1800000
2800000
-
== throttled
== thermalservice
Thermal Status: 2
Temperature{mValue=47.2, mType=0, mName=CPU0, mStatus=0}
Temperature{mValue=99.0, mType=3, mName=skin, mStatus=0}
== battery
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Charge counter: 2963000
  status: 2
  health: 2
  present: true
  level: 85
  scale: 100
  voltage: 4215
  temperature: 281
  technology: Li-ion
[EventLogBuffer]
  level: 72
== hostname
localhost
== cpuinfo
processor\t: 0
Features\t: fp asimd crc32 atomics asimdhp asimddp
CPU implementer\t: 0x51
CPU part\t: 0x803
CPU variant\t: 0x7
CPU revision\t: 12
processor\t: 1
Features\t: fp asimd crc32 atomics asimdhp asimddp
CPU implementer\t: 0x51
CPU part\t: 0x803
CPU variant\t: 0x7
CPU revision\t: 12
processor\t: 2
Features\t: fp asimd crc32 atomics asimdhp asimddp aes
CPU implementer\t: 0x41
CPU part\t: 0xd0d
== meminfo
MemTotal:        5783456 kB
== cores
cpu2 2800000 825600 schedutil 0x00000000411fd0d0
cpu0 1800000 300000 schedutil -
cpu1 1800000 300000 schedutil -
cpufreq - - - -
== caches
1 Data 64K 4 64 0
2 Unified 256K - 64 0
3 Unified 2048K 16 64 0-2
4 Unified nonsense 1 1 0
== properties
ro.product.manufacturer=Maker
ro.product.model=Phone 7 "Pro"
ro.soc.model=SM8150
ro.product.cpu.abi=arm64-v8a
ro.build.version.release=13
ro.build.version.sdk=33
== programs
/system/bin/taskset
"""


@pytest.fixture
def phone() -> dict[str, Any]:
    return read_facts(PHONE, name="adb:X", arch="aarch64")


def test_a_phone_with_two_kinds_of_cores(phone: dict[str, Any]) -> None:
    assert (phone["name"], phone["soc"], phone["os"]) == ('Maker Phone 7 "Pro"', "SM8150", "Android 13")
    assert (phone["api_level"], phone["memory_mib"], phone["cores"]) == (33, 5647, 3)
    small, big = phone["clusters"]
    assert (small["microarchitecture"], small["count"], small["cpus"]) == (None, 2, [0, 1])
    assert (big["microarchitecture"], big["max_mhz"], big["midr_revision"]) == ("cortex-a77", 2800, 0)
    assert phone["isa"] == ["crc32", "dotprod", "fp16", "lse", "neon"], "what every core has"
    assert [c["level"] for c in phone["caches"]] == [1, 2, 3]
    assert phone["caches"][1]["ways"] is None and phone["caches"][2]["shared_by"] == 3


def test_its_conditions() -> None:
    now = read_conditions(PHONE)
    assert now.celsius == 47.2, "the hottest of the processor's, and no sensor that reads nonsense"
    assert now.throttled is True
    assert now.mhz == (1800, 1800, 2800)
    assert now.battery == Battery(percent=85, celsius=28.1, charging=True), "not of the log below it"


def test_the_battery_is_among_its_facts(phone: dict[str, Any]) -> None:
    assert phone["battery"] == {"percent": 85, "celsius": 28.1, "charging": True}
    assert read_facts("", name="ssh:x", arch="aarch64")["battery"] is None


@pytest.mark.parametrize(
    ("said", "battery"),
    [
        ("", None),
        ("Permission Denial: can't dump battery service", None),
        ("Current Battery Service state:\n  present: false\n  level: 0\n  scale: 100", None),
        (
            "Current Battery Service state:\n  (UPDATES STOPPED -- use 'reset' to restart)\n  level: 100\n"
            "  scale: 100",
            None,
        ),
        (
            "Current Battery Service state:\n  status: 5\n  level: 50\n  scale: 50\n  temperature: -15",
            Battery(percent=100, celsius=-1.5, charging=False),
        ),
        (
            "Current Battery Service state:\n  status: 1\n  level: 70\n  temperature: warm",
            Battery(percent=None, celsius=None, charging=None),
        ),
    ],
)
def test_a_battery_tells_what_it_tells(said: str, battery: Battery | None) -> None:
    assert read_conditions(f"== battery\n{said}\n").battery == battery


@pytest.mark.parametrize(("word", "throttled"), [("0x0", False), ("0x50000", False), ("0x50005", True)])
def test_a_raspberry_pi_says_whether_it_throttles_now(word: str, throttled: bool) -> None:
    assert read_conditions(f"== throttled\nthrottled={word}\n").throttled is throttled


def test_a_machine_that_tells_nothing() -> None:
    facts = read_facts("", name="ssh:x", arch="aarch64")
    assert facts["name"] == "ssh:x"
    assert all(facts[k] is None for k in ("soc", "memory_mib", "os", "governor", "celsius", "throttled"))
    assert read_conditions("garbage\0\n== thermal\n??").celsius is None


def test_a_draft_for_a_phone(phone: dict[str, Any], tmp_path: Path) -> None:
    name, text = draft_profile(phone)
    assert name == "maker_phone_7_pro"
    (tmp_path / "p.toml").write_text(text)
    profile = load_profile(str(tmp_path / "p.toml"))
    assert lint(profile) == []
    assert profile.cores[0].microarchitecture == "unknown (implementer 0x51, part 0x803)"
    assert profile.cores[1].ghz == 2.8 and profile.constraints.channel_multiple == 16
    assert profile.caches.l2 is not None and profile.caches.l2.ways is None
    assert profile.emulator is None and profile.estimate is None


def test_a_draft_of_what_tells_nothing(tmp_path: Path) -> None:
    _, text = draft_profile(read_facts("", name="ssh:x", arch="aarch64"))
    (tmp_path / "p.toml").write_text(text)
    profile = load_profile(str(tmp_path / "p.toml"))
    assert lint(profile) == [] and profile.cores == ()


def test_no_draft_for_other_machines() -> None:
    with pytest.raises(Unsupported, match="machine of armv7l"):
        draft_profile({"arch": "armv7l", "name": "x"})


def test_what_it_can_run(phone: dict[str, Any]) -> None:
    assert abilities(phone, None) == ["tflite (edgekit's runner)", "executorch (edgekit's runner)"]
    jetson = {"arch": "aarch64", "programs": ["/usr/src/tensorrt/bin/trtexec"]}
    assert abilities(jetson, {"onnxruntime": "1.20"})[2:] == [
        "onnx (onnxruntime 1.20)",
        "onnx/tensorrt (trtexec)",
    ]
    assert abilities({"arch": "armv7l"}, {"tflite-runtime": "2.14"}) == ["tflite (tflite-runtime 2.14)"]
