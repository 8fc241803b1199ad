from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.devices import RunResult
from edgekit.devices.fake import FakeLink
from edgekit.errors import DeviceError
from edgekit.store import Store
from edgekit.types import DeviceCommand


@pytest.fixture
def command(tmp_path: Path) -> DeviceCommand:
    (tmp_path / "program").write_bytes(b"code")
    (tmp_path / "data").write_bytes(b"data")
    return DeviceCommand(
        argv=("p", "x"), files={"p": tmp_path / "program", "in/d": tmp_path / "data"}, outputs=("o",)
    )


def test_answers_come_in_order_and_then_run_out(command: DeviceCommand, device_store: Store) -> None:
    result = RunResult(returncode=0, stdout="a", stderr="")
    link = FakeLink([result, DeviceError("unplugged")], store=device_store)
    assert link.run(command, timeout_s=1) is result
    with pytest.raises(DeviceError, match="unplugged"):
        link.run(command, timeout_s=1)
    with pytest.raises(DeviceError, match="no answer left"):
        link.run(command, timeout_s=1)


def test_it_remembers_what_it_was_asked(command: DeviceCommand, device_store: Store) -> None:
    link = FakeLink([RunResult(returncode=0, stdout="", stderr="")], store=device_store)
    link.run(command, timeout_s=3, count=True)
    (call,) = link.calls
    assert call.command is command
    assert call.files == {"p": b"code", "in/d": b"data"}
    assert (call.timeout_s, call.count, call.caches, call.per_op) == (3, True, False, False)


def test_a_function_plays_the_program(command: DeviceCommand, device_store: Store) -> None:
    def program(asked: DeviceCommand, folder: Path) -> RunResult:
        (folder / "o").write_bytes((folder / "in/d").read_bytes()[::-1])
        return RunResult(returncode=0, stdout=" ".join(asked.argv), stderr="")

    result = FakeLink(program, store=device_store).run(command, timeout_s=1)
    assert result.outputs == {"o": b"atad"}
    assert result.stdout == "p x"
