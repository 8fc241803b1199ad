"""The file service of adbd: STAT, SEND and RECV of SYNC.TXT."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from boards.adb_phone import Phone, Stream


class Sync:
    """The file service: STAT, LIST, SEND, RECV."""

    def __init__(self, device: Phone, stream: Stream) -> None:
        self._device = device
        self._stream = stream

    def serve(self) -> None:
        while True:
            name, size = struct.unpack("<4sI", self._stream.read(8))
            if name == b"QUIT":
                return
            argument = self._stream.read(size).decode(errors="surrogateescape")
            if name == b"STAT":
                self._stat(argument)
            elif name in (b"STA2", b"LST2"):
                self._stat2(name, argument)
            elif name == b"SEND":
                self._send(argument)
            elif name == b"RECV":
                self._receive(argument)
            else:
                self._fail(f"unknown request {name!r}")
                return

    def _fail(self, message: str) -> None:
        self._stream.write(b"FAIL" + struct.pack("<I", len(message)) + message.encode())

    def _stat(self, name: str) -> None:
        try:
            s = _inside(self._device, name).lstat()
            values = (s.st_mode, s.st_size & 0xFFFFFFFF, int(s.st_mtime))
        except OSError:
            values = (0, 0, 0)
        self._stream.write(b"STAT" + struct.pack("<III", *values))

    def _stat2(self, kind: bytes, name: str) -> None:
        layout = "<IQQIIIIQqqq"
        try:
            s = _inside(self._device, name).stat(follow_symlinks=kind == b"STA2")
        except OSError as exc:
            self._stream.write(kind + struct.pack(layout, exc.errno or 0, *[0] * 10))
            return
        times = (int(s.st_atime), int(s.st_mtime), int(s.st_ctime))
        head = (0, s.st_dev, s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_size)
        self._stream.write(kind + struct.pack(layout, *head, *times))

    def _send(self, argument: str) -> None:
        """A pushed file. An error is told when the client has sent all, as adbd does."""
        name, _, mode = argument.rpartition(",")
        target = _inside(self._device, name)
        wrong, received = "", 0
        writer = _Written(target)
        while True:
            kind, size = struct.unpack("<4sI", self._stream.read(8))
            if kind == b"DONE":
                break
            data = self._stream.read(size)
            received += len(data)
            limit = self._device.faults.cut_send_after
            if limit is not None and received >= limit:
                self._device.faults.cut_send_after = None
                self._device.vanish()
                raise EOFError
            if not wrong:
                wrong = writer.write(data)
        wrong = writer.close(int(mode) & 0o777) or wrong
        if not wrong and self._device.faults.flip_pushes > 0:
            self._device.faults.flip_pushes -= 1
            damaged = bytearray(target.read_bytes())
            damaged[len(damaged) // 2] ^= 0x10
            target.write_bytes(damaged)
        if wrong:
            self._fail(f"couldn't write file: {wrong}")
        else:
            self._stream.write(b"OKAY\0\0\0\0")

    def _receive(self, name: str) -> None:
        sent = 0
        try:
            with _inside(self._device, name).open("rb") as source:
                while data := source.read(65536):
                    self._stream.write(b"DATA" + struct.pack("<I", len(data)) + data)
                    sent += len(data)
                    limit = self._device.faults.cut_receive_after
                    if limit is not None and sent >= limit:
                        self._device.faults.cut_receive_after = None
                        self._device.vanish()
                        raise EOFError
        except OSError as exc:
            self._fail(f"open failed: {exc.strerror}")
            return
        self._stream.write(b"DONE\0\0\0\0")


def _inside(device: Phone, name: str) -> Path:
    """A path of the phone, with the mounts of the namespace."""
    return Path(f"/proc/{device.namespace.pid}/root{device.path(name)}")


class _Written:
    """A file, written as the phone's shell user would."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wrong = ""
        self._file: IO[bytes] | None = None
        try:
            folder = self._path.parent
            if not _shell_user_may_write(folder):
                raise PermissionError(13, "Permission denied")
            self._file = self._path.open("wb")
            os.fchown(self._file.fileno(), 2000, 2000)
        except OSError as exc:
            self._wrong = exc.strerror or str(exc)

    def write(self, data: bytes) -> str:
        if self._file is not None and not self._wrong:
            try:
                self._file.write(data)
                self._file.flush()
            except OSError as exc:
                self._wrong = exc.strerror or str(exc)
        return self._wrong

    def close(self, mode: int) -> str:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            if not self._wrong:
                self._path.chmod(mode)
        return self._wrong


def _shell_user_may_write(folder: Path) -> bool:
    s = folder.stat()
    return bool(s.st_mode & (0o200 if s.st_uid == 2000 else 0o002))
