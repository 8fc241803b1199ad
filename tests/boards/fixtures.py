"""Fixtures of the device ends; they skip with the reason where this machine cannot have them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boards.adb_phone import Phone, phone
from boards.cable import Cable
from boards.machine import Machine
from boards.namespace import Namespace, namespace
from boards.root import fetch_packages, make_board, make_phone
from boards.sshd import Client, Sshd, sshd
from edgekit.store import Store

_QEMU = "qemu-aarch64-static"


def _give_up(reason: str) -> None:
    if os.environ.get("EDGEKIT_REQUIRE_LINKS") == "1":
        pytest.fail(f"EDGEKIT_REQUIRE_LINKS=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def arm64_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked packages of Debian's arm64."""
    try:
        return fetch_packages(tmp_path_factory.mktemp("arm64_packages"))
    except (OSError, subprocess.CalledProcessError) as exc:
        _give_up(f"arm64 packages of Debian cannot be had: {exc}")
        raise AssertionError from exc


@pytest.fixture(scope="session")
def arm64_namespace(arm64_tools: None) -> Iterator[Namespace]:
    """Where arm64 programs run, shared by all device ends."""
    if os.geteuid() != 0:
        _give_up("the device ends of ssh and adb need root")
    missing = [tool for tool in (_QEMU, "nsenter", "apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        _give_up(f"not installed: {', '.join(missing)}")
    try:
        with namespace(str(shutil.which(_QEMU))) as made:
            yield made
    except OSError as exc:
        _give_up(f"no namespace for arm64 programs: {exc}")


@pytest.fixture(scope="session")
def ssh_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The real ssh, first in PATH as a program with keys of its own."""
    if shutil.which("ssh") is None or not Path("/usr/sbin/sshd").exists():
        _give_up("not installed: openssh-client, openssh-server")
    made = Client(tmp_path_factory.mktemp("ssh_client"))
    made.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{made.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        yield made


@pytest.fixture(scope="session")
def board(
    arm64_packages: Path,
    arm64_namespace: Namespace,
    ssh_client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Sshd]:
    """A Raspberry Pi 4 look-alike behind a real sshd."""
    folder = tmp_path_factory.mktemp("board")
    make_board(folder / "root", arm64_packages, _persona("pi4"))
    arm64_namespace.mount_into(folder / "root")
    with sshd(folder, folder / "root", arm64_namespace, ssh_client, "cortex-a72") as made:
        yield made


@pytest.fixture(scope="session")
def host_account(ssh_client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """The account "root" of an sshd without a root of its own: it sees this machine, with the programs of its
    folder "stand-in" before all others."""
    if os.geteuid() != 0 or shutil.which(_QEMU) is None:
        _give_up(f"the device end of ssh needs root and {_QEMU}")
    folder = tmp_path_factory.mktemp("host_account")
    (folder / "stand-in").mkdir()
    # In a namespace of its own: its accounts are not the board's.
    with namespace(str(shutil.which(_QEMU))) as own, sshd(folder, None, own, ssh_client) as made:
        yield made


@pytest.fixture(scope="session")
def adb_server(sealed_home: Path) -> Iterator[None]:
    """The real adb client with a server and keys of its own."""
    if shutil.which("adb") is None:
        _give_up("not installed: adb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.delenv("ANDROID_SERIAL", raising=False)
        yield
        subprocess.run(["adb", "kill-server"], check=False, capture_output=True)


@pytest.fixture(scope="session")
def android_phone(
    arm64_packages: Path,
    arm64_namespace: Namespace,
    adb_server: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Phone]:
    """A phone look-alike with Cortex-A76 cores; not connected to yet."""
    root = tmp_path_factory.mktemp("phone") / "root"
    make_phone(root, arm64_packages, _persona("pi5"))
    arm64_namespace.mount_into(root)
    with phone(root, arm64_namespace, "cortex-a76") as made:
        yield made


@pytest.fixture(scope="module")
def make_machine(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require_tools: Callable[..., None],
) -> Iterator[Callable[[str], Machine]]:
    """A machine by the kind of its link ("local", "emulator", "ssh", "adb"), once for each module."""
    made: dict[str, Machine] = {}

    def make(kind: str) -> Machine:
        if kind not in made:
            made[kind] = _machine(kind, request, Store(tmp_path_factory.mktemp("store")), require_tools)
        return made[kind]

    yield make
    for machine in made.values():
        if machine.cable is not None:
            machine.cable.close()


def _machine(
    kind: str, request: pytest.FixtureRequest, store: Store, require_tools: Callable[..., None]
) -> Machine:
    if kind == "local":
        require_tools("cc")
        return Machine(kind, kind, "cc", store)
    require_tools("qemu-aarch64", "aarch64-linux-gnu-gcc")
    compiler = "aarch64-linux-gnu-gcc"
    if kind == "emulator":
        return Machine(kind, kind, compiler, store)
    if kind == "adb":
        phone = request.getfixturevalue("android_phone")
        base = phone.path("/data/local/tmp/edgekit")
        return Machine(kind, f"adb:{phone.serial}", compiler, store, base=base, end=phone)
    board = request.getfixturevalue("board")
    cable = Cable(board.port)
    board.know(cable.port)
    base = board.root / "home/pi/.cache/edgekit"
    address = f"ssh:pi@127.0.0.1:{cable.port}"
    return Machine(kind, address, compiler, store, base=base, cable=cable, end=board)


def _persona(profile: str) -> dict[str, str]:
    from edgekit.devices.emulator.persona import persona_files
    from edgekit.profiles.loader import load_profile

    found = load_profile(profile)
    assert found.emulator is not None
    return persona_files(found, found.emulator)
