"""How an sshd can refuse, and what a login shell can do to the output: with the real client and server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boards.sshd import Sshd

from edgekit.devices import Link, open_link
from edgekit.errors import DeviceError, DeviceLost, MissingDependency
from edgekit.store import Store

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def opened(store: Store) -> Iterator[Callable[[str], Link]]:
    links: list[Link] = []

    def make(spec: str) -> Link:
        links.append(open_link(spec, None, store))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def known_hosts(board: Sshd) -> Iterator[Path]:
    """The client's list of host keys, as it was afterwards."""
    path = board.client.known_hosts
    text = path.read_text()
    yield path
    path.write_text(text)


def test_another_host_key(board: Sshd, known_hosts: Path, opened: Callable[[str], Link]) -> None:
    other = (board.folder / "other_key.pub").read_text().split()[:2]
    known_hosts.write_text(f"[127.0.0.1]:{board.port} {' '.join(other)}\n")
    with pytest.raises(DeviceError, match=r"host key .* is not the one that is known") as caught:
        opened(board.address())
    assert "ssh-keygen -R" in (caught.value.hint or "")
    assert not isinstance(caught.value, DeviceLost), "trying again would not help"


def test_an_unknown_host_key(board: Sshd, known_hosts: Path, opened: Callable[[str], Link]) -> None:
    known_hosts.write_text("")
    with pytest.raises(DeviceError, match="is not known here yet") as caught:
        opened(board.address())
    assert f"ssh -p {board.port} pi@127.0.0.1" in (caught.value.hint or "")


def test_an_account_that_does_not_let_in(board: Sshd, opened: Callable[[str], Link]) -> None:
    with pytest.raises(DeviceError, match="permission denied") as caught:
        opened(board.address(user="stranger"))
    assert "ssh-copy-id" in (caught.value.hint or "")


def test_nobody_listens(board: Sshd, opened: Callable[[str], Link]) -> None:
    with pytest.raises(DeviceLost, match=r"cannot be reached: .*Connection refused"):
        opened("ssh:pi@127.0.0.1:1")


def test_a_name_without_address(board: Sshd, opened: Callable[[str], Link]) -> None:
    with pytest.raises(DeviceLost, match="cannot be reached"):
        opened("ssh:pi@edgekit-no-such-board.invalid")


def test_no_client(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="ssh is not installed"):
        open_link("ssh:pi@board", None, store)


def test_a_login_shell_that_prints(board: Sshd, opened: Callable[[str], Link], tmp_path: Path) -> None:
    link = opened(board.address(user="loud"))
    noise = subprocess.run(
        ["ssh", "-p", str(board.port), "loud@127.0.0.1", "true"], capture_output=True, text=True, check=True
    )
    assert "Welcome" in noise.stdout and "no mail" in noise.stderr, "the shell has to be noisy"
    (tmp_path / "data").write_bytes(bytes(range(256)))
    with link.workspace() as space:
        space.push({"data": tmp_path / "data"})
        done = space.run(["sh", "-c", "cat data | wc -c; echo oops >&2; exit 4"], timeout_s=30)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (4, "256", "oops\n")
        space.pull("data", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == bytes(range(256))
    assert link.facts()["os"] == "Debian GNU/Linux 12 (bookworm)"


def test_facts_of_the_board(board: Sshd, opened: Callable[[str], Link]) -> None:
    facts = opened(board.address()).facts()
    (cluster,) = facts["clusters"]
    assert (cluster["microarchitecture"], cluster["count"], cluster["max_mhz"]) == ("cortex-a72", 4, 1500)
    assert facts["isa"] == ["crc32", "neon"]
    assert (facts["memory_mib"], facts["governor"], facts["celsius"]) == (4096, "performance", 35.5)
    assert [c["kib"] for c in facts["caches"]] == [32, 48, 1024]


def test_a_closed_link_leaves_no_connection(board: Sshd, store: Store) -> None:
    link = open_link(board.address(), None, store)
    folder = Path(link._transport._folder)  # type: ignore[attr-defined]
    assert (folder / "s").exists() and folder.stat().st_mode & 0o777 == 0o700
    link.close()
    assert not folder.exists()


def test_programs_in_python_run_in_the_devices_python(
    host_account: Sshd, opened: Callable[[str], Link], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.types import DeviceCommand

    link = opened(host_account.address(user="root"))
    (tmp_path / "p.py").write_text(
        "import sys, numpy\nprint(sys.argv[1:])\n"
        "open('out', 'wb').write(numpy.arange(3, dtype='u1').tobytes())\n"
    )

    def command(*packages: str) -> DeviceCommand:
        return DeviceCommand(
            argv=("p.py", "it's $(id)"), files={"p.py": tmp_path / "p.py"}, python=packages, outputs=("out",)
        )

    monkeypatch.setenv("EDGEKIT_DEVICE_PYTHON", sys.executable)
    done = link.run(command("numpy>=2"), timeout_s=60)
    assert done.stdout == '["it\'s $(id)"]\n' and done.outputs == {"out": b"\0\1\2"}
    with pytest.raises(MissingDependency, match=r"has numpy .* but the file needs numpy>=99"):
        link.run(command("numpy>=99"), timeout_s=60)
    with pytest.raises(MissingDependency, match="has no Python package no-such-package"):
        link.run(command("no-such-package"), timeout_s=60)
    monkeypatch.setenv("EDGEKIT_DEVICE_PYTHON", "/no/such/python")
    with pytest.raises(MissingDependency, match="no Python that runs as /no/such/python"):
        link.run(command("numpy"), timeout_s=60)


def test_a_link_that_does_not_open_leaves_no_folder(
    board: Sshd, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import tempfile

    made: list[str] = []
    real = tempfile.mkdtemp

    def note(*arguments: str, **rest: str) -> str:
        made.append(real(*arguments, **rest))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", note)
    with pytest.raises(DeviceLost):
        open_link("ssh:pi@127.0.0.1:1", None, store)
    gc.collect()
    assert made and not Path(made[0]).exists()
