"""States of phones and of adb itself, with the real client and a device end on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from boards.adb_phone import Faults, Phone, phone

from edgekit.devices import Link, open_link
from edgekit.devices.adb import AdbLink, attached
from edgekit.errors import DeviceError, DeviceLost, MissingDependency, UserError
from edgekit.store import Store

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def target(android_phone: Phone) -> Iterator[Phone]:
    """The phone, not connected at the start, without faults at the end."""
    subprocess.run(["adb", "disconnect"], check=True, capture_output=True)
    android_phone.keys.clear()
    yield android_phone
    android_phone.faults = Faults()
    if android_phone._listener is None:
        android_phone.attach()
    subprocess.run(["adb", "disconnect"], check=True, capture_output=True)


@pytest.fixture
def second(target: Phone) -> Iterator[Phone]:
    with phone(target.root, target.namespace, target.cpu) as made:
        yield made


@pytest.fixture
def link(target: Phone, store: Store) -> AdbLink:
    made = open_link(f"adb:{target.serial}", None, store)
    assert isinstance(made, AdbLink)
    return made


def open_it(target: Phone, store: Store) -> Link:
    return open_link(f"adb:{target.serial}", None, store)


def test_unauthorized(target: Phone, store: Store) -> None:
    target.faults.refuse_keys = True
    with pytest.raises(DeviceError, match="unauthorized") as caught:
        open_it(target, store)
    assert "accept the question" in (caught.value.hint or "")


def test_offline(target: Phone, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    target.faults.silent = True
    monkeypatch.setattr("edgekit.devices.adb._SETTLE_S", 0.5)
    with pytest.raises(DeviceLost, match=r"offline|cannot be reached"):
        open_it(target, store)


def test_offline_and_back(target: Phone, store: Store) -> None:
    """adb itself would list it as offline for good."""
    open_it(target, store)
    target.vanish()
    target.faults.silent = True
    target.attach()
    subprocess.run(["adb", "connect", target.serial], check=False, capture_output=True)
    target.faults.silent = False
    assert open_it(target, store).facts()["soc"] == "PERSONA-A76"


def test_nothing_listens(target: Phone, store: Store) -> None:
    target.vanish()
    with pytest.raises(DeviceLost, match=r"cannot be reached: .*(refused|unable|failed)"):
        open_it(target, store)


def test_a_serial_that_is_not_attached(target: Phone, store: Store) -> None:
    with pytest.raises(DeviceLost, match=r"no device R58M123 is attached \(adb lists: none\)"):
        open_link("adb:R58M123", None, store)


def test_none_to_choose_from(target: Phone, store: Store) -> None:
    with pytest.raises(DeviceLost, match="no device is attached"):
        open_link("adb:", None, store)


def test_several_to_choose_from(target: Phone, second: Phone, store: Store) -> None:
    for each in (target, second):
        open_it(each, store)
    with pytest.raises(UserError, match="several devices are attached") as caught:
        open_link("adb:", None, store)
    assert target.serial in str(caught.value) and second.serial in str(caught.value)
    assert {a.serial for a in attached()} == {target.serial, second.serial}


def test_the_only_one_needs_no_serial(link: AdbLink, store: Store) -> None:
    only = open_link("adb:", None, store)
    assert only.name == link.name


def test_no_client(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="adb is not installed"):
        open_link("adb:x", None, store)


def test_an_environment_that_names_another_device(
    target: Phone, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDROID_SERIAL", "some-other-phone")
    assert open_it(target, store).facts()["soc"] == "PERSONA-A76"


def test_the_server_is_restarted_between_runs(link: AdbLink) -> None:
    assert link.shell(["echo", "one"]).stdout == "one\n"
    subprocess.run(["adb", "kill-server"], check=True, capture_output=True)
    with link.workspace() as space:
        assert space.run(["echo", "two"], timeout_s=30).stdout == "two\n"


def test_the_server_is_restarted_in_a_session(link: AdbLink, target: Phone) -> None:
    with link.workspace() as space:
        space.push({"first": Path(__file__)})
        subprocess.run(["adb", "kill-server"], check=True, capture_output=True)
        space.push({"second": Path(__file__)})  # renews the session
        assert space.run(["cat", "first"], timeout_s=30).stdout == Path(__file__).read_text()
        subprocess.run(["adb", "kill-server"], check=True, capture_output=True)
        with pytest.raises(DeviceLost):  # what a run left there is gone: nothing to renew
            space.run(["cat", "first"], timeout_s=30)


def test_files_that_get_damaged(link: AdbLink, target: Phone, tmp_path: Path) -> None:
    with link.workspace() as space:
        target.faults.flip_pushes = 1
        space.push({"file": Path(__file__)})
        space.pull("file", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == Path(__file__).read_bytes()
        (tmp_path / "other").write_text("some other text")
        target.faults.flip_pushes = 2
        with pytest.raises(DeviceError, match=r"did not arrive whole .* twice"):
            space.push({"other": tmp_path / "other"})


def test_the_shell_and_files_for_what_drives_an_app(link: AdbLink, tmp_path: Path) -> None:
    said = link.shell(["sh", "-c", 'echo "$1"; echo no >&2; exit 5', "sh", "it's $(id)"])
    assert (said.returncode, said.stdout, said.stderr) == (5, "it's $(id)\n", "no\n")
    place = "/data/local/tmp/with space"
    link.push_file(Path(__file__), place)
    link.pull_file(place, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == Path(__file__).read_bytes()
    assert link.shell(["rm", place]).returncode == 0
    with pytest.raises(DeviceError, match="pulling a file"):
        link.pull_file(place, tmp_path / "gone")
    (tmp_path / "app.apk").write_bytes(b"not an app")
    with pytest.raises(DeviceError, match=r"installing app\.apk failed"):
        link.install(tmp_path / "app.apk")


def test_facts_of_the_phone(link: AdbLink) -> None:
    facts = link.facts()
    assert (facts["os"], facts["api_level"], facts["abi"]) == ("Android 14", 34, "arm64-v8a")
    assert facts["name"] == "edgekit Persona A76"
    assert "dotprod" in facts["isa"]
    assert facts["throttled"] is False
    assert facts["battery"] == {"percent": 87, "celsius": 30.5, "charging": True}


def test_a_phone_has_no_python(link: AdbLink, tmp_path: Path) -> None:
    from edgekit.types import DeviceCommand

    (tmp_path / "p.py").write_text("print(1)")
    command = DeviceCommand(argv=("p.py",), files={"p.py": tmp_path / "p.py"}, python=("numpy",))
    with pytest.raises(MissingDependency, match="has no Python") as caught:
        link.run(command, timeout_s=20)
    assert "gcc-aarch64-linux-gnu" in (caught.value.hint or ""), "no advice to install python3 on a phone"
