from __future__ import annotations

import os
import platform
import select
import sys
from pathlib import Path

import pytest

from edgekit.devices import open_link, process
from edgekit.devices.local import LocalLink
from edgekit.errors import DeviceError, Unsupported, UserError
from edgekit.store import Store
from edgekit.types import DeviceCommand


@pytest.fixture
def link(device_store: Store) -> LocalLink:
    return LocalLink(device_store)


def script(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(f"#!{sys.executable} -I\n{body}\n")
    return path


def command(program: Path, *arguments: str, **rest) -> DeviceCommand:
    return DeviceCommand(argv=("program", *arguments), files={"program": program}, **rest)


def test_facts_name_the_machine(link: LocalLink) -> None:
    facts = link.facts()
    assert facts["arch"] == link.arch == platform.machine()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["cpu"]
    assert facts["emulated"] is False
    assert link.source == "host"


def test_a_program_inherits_nothing_but_the_path(
    link: LocalLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_SECRET", "x")
    program = script(tmp_path, "import os; print(sorted(os.environ))")
    result = link.run(command(program, env={"ASKED": "1"}), timeout_s=20)
    assert "EDGEKIT_SECRET" not in result.stdout
    assert "'ASKED'" in result.stdout


def test_a_crash_is_a_device_error_with_the_signal_and_the_last_words(
    link: LocalLink, tmp_path: Path
) -> None:
    program = script(tmp_path, "import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()")
    with pytest.raises(DeviceError, match="SIGABRT") as caught:
        link.run(command(program), timeout_s=20)
    assert "last words" in (caught.value.hint or "")
    assert caught.value.exit_code == 7


def test_a_timeout_ends_the_children_too(link: LocalLink, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    body = f"import os, time; os.open({str(pipe)!r}, os.O_WRONLY); os.fork(); time.sleep(1000)"
    with pytest.raises(DeviceError, match=r"did not end within 0\.5 s"):
        link.run(command(script(tmp_path, body)), timeout_s=0.5)
    # End of file: no process holds the writing end any more.
    ended, _, _ = select.select([reader], [], [], 5)
    assert ended
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_folder_is_removed_whatever_happens(link: LocalLink, device_store: Store, tmp_path: Path) -> None:
    link.run(command(script(tmp_path, "open('left', 'w')")), timeout_s=20)
    with pytest.raises(DeviceError):
        link.run(command(script(tmp_path, "import os; os.abort()")), timeout_s=20)
    assert list((device_store.root / "tmp").iterdir()) == []


def test_pushed_files_are_copies(link: LocalLink, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("mine")
    program = script(tmp_path, "open('data', 'w').write('theirs')")
    link.run(DeviceCommand(argv=("p",), files={"p": program, "data": data}), timeout_s=20)
    assert data.read_text() == "mine"


def test_a_file_that_no_system_can_start_is_a_device_error(link: LocalLink, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"\x00\x01")
    with pytest.raises(DeviceError, match="cannot be started"):
        link.run(command(junk), timeout_s=20)


def test_peak_memory_is_given_only_where_it_is_the_childs(
    link: LocalLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's mark of a child starts at that of this process: not above it, it says nothing."""
    program = script(tmp_path, "x = b'x' * (64 << 20)")
    assert process._own_peak_rss_bytes() > 1 << 20
    monkeypatch.setattr(process, "_own_peak_rss_bytes", lambda: 1 << 20)
    peak = link.run(command(program), timeout_s=60).peak_rss_bytes
    assert peak is not None
    assert peak >= 64 << 20
    monkeypatch.setattr(process, "_own_peak_rss_bytes", lambda: 1 << 50)
    assert link.run(command(program), timeout_s=60).peak_rss_bytes is None


def test_counting_is_not_for_the_host(link: LocalLink, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot be counted"):
        link.run(command(script(tmp_path, "pass")), timeout_s=20, count=True)


@pytest.mark.parametrize(
    ("spec", "error", "complaint"),
    [
        ("adb:-s", UserError, "is not adb:SERIAL"),
        ("adb:a b", UserError, "is not adb:SERIAL"),
        ("ssh:", UserError, "is not ssh:"),
        ("ssh:-oProxyCommand=id", UserError, "is not ssh:"),
        ("ssh:pi@-x", UserError, "is not ssh:"),
        ("ssh:pi@board:99999", UserError, "is not ssh:"),
        ("ssh:pi@board;id", UserError, "is not ssh:"),
        ("toaster", UserError, "unknown device 'toaster'"),
        ("local:1", UserError, "unknown device 'local:1'"),
        ("emulator", UserError, "which device"),
    ],
)
def test_what_cannot_be_opened_says_why(
    spec: str, error: type[Exception], complaint: str, device_store: Store
) -> None:
    with pytest.raises(error, match=complaint):
        open_link(spec, None, device_store)


def test_local_is_opened(device_store: Store) -> None:
    assert isinstance(open_link("local", None, device_store), LocalLink)
