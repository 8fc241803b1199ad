"""The device end of the adb protocol on loopback, for the real adb client.

Written to AOSP's packages/modules/adb: protocol.txt, SYNC.TXT, shell_protocol.h. Serves shell (v2), exec and
sync; commands run in a root of :mod:`boards.root`. Its faults are those that a phone and its cable can have.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from boards.adb_files import Sync
from boards.namespace import Namespace

_VERSION = 0x01000001
_MAX_DATA = 256 * 1024
_NAMES = (b"SYNC", b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
_TOKEN, _SIGNATURE, _PUBLIC_KEY = 1, 2, 3
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_FEATURES = "shell_v2,cmd,stat_v2,fixed_push_mkdir"
_SHA1_DIGEST_INFO = bytes.fromhex("3021300906052b0e03021a05000414")
_PORTS = range(15990, 16400, 2)
"""Not 5555 to 5585: there adb looks for emulators by itself and lists them twice."""


@dataclass
class Faults:
    """What goes wrong; all is well by default."""

    refuse_keys: bool = False
    """The owner does not allow the computer to debug: unauthorized."""
    silent: bool = False
    """It is attached but does not answer: offline."""
    cut_send_after: int | None = None
    """The cable goes when so many bytes of one pushed file have come."""
    cut_receive_after: int | None = None
    """The same, of one pulled file."""
    cut_on_output: bytes | None = None
    """The same, when a command has printed this."""
    flip_pushes: int = 0
    """So many pushed files are damaged on their way."""


@dataclass
class Phone:
    """A phone that listens on ``port``; ``serial`` is its name for adb."""

    root: Path
    namespace: Namespace
    cpu: str
    port: int
    faults: Faults = field(default_factory=Faults)
    keys: list[bytes] = field(default_factory=list)
    _listener: socket.socket | None = None
    _connections: set[_Connection] = field(default_factory=set)

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def attach(self) -> None:
        """Listen, and serve whoever connects."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def vanish(self) -> None:
        """All connections break, what their shells ran is hung up; nobody listens until attach()."""
        listener = self._listener
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._listener = None  # only now is the port free for attach()
        for connection in list(self._connections):
            connection.drop()

    def path(self, name: str) -> Path:
        """Where a path of the phone lies on this machine."""
        return self.root / os.path.normpath(f"/{name}").lstrip("/")

    def spawn(self, command: str) -> subprocess.Popen[bytes]:
        """What adbd does for a shell service: the shell of the phone with a command line."""
        environment = {"PATH": "/system/bin", "QEMU_CPU": self.cpu, "HOME": "/", "TMPDIR": "/data/local/tmp"}
        return subprocess.Popen(
            [
                *("/usr/bin/env", "-i", *(f"{k}={v}" for k, v in environment.items())),
                *("/usr/bin/nsenter", *self.namespace.enter[1:]),
                *(
                    "/usr/sbin/chroot",
                    "--userspec=2000:2000",
                    str(self.root),
                    "/system/bin/sh",
                    "-c",
                    command,
                ),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self, peer)
            self._connections.add(connection)
            threading.Thread(target=connection.serve, daemon=True).start()

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)


@contextmanager
def phone(root: Path, namespace: Namespace, cpu: str) -> Iterator[Phone]:
    """An attached phone; gone at the end."""
    for port in _PORTS:
        made = Phone(root, namespace, cpu, port)
        try:
            made.attach()
        except OSError:
            continue
        break
    else:
        raise OSError("no port is free")
    try:
        yield made
    finally:
        made.vanish()


class Stream:
    """One service: bytes in order in both directions, one packet in flight."""

    def __init__(self, connection: _Connection, local: int, remote: int) -> None:
        self.connection, self.local, self.remote = connection, local, remote
        self.closed = False
        self._ready = True
        self._received = bytearray()
        self._changed = threading.Condition()

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), self.connection.max_data):
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self.closed)
                if self.closed:
                    return
                self._ready = False
            piece = data[start : start + self.connection.max_data]
            self.connection.send(b"WRTE", self.local, self.remote, piece)

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises EOFError when the other side is done before."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._received) >= size or self.closed)
            if len(self._received) < size:
                raise EOFError
            found = bytes(self._received[:size])
            del self._received[:size]
            return found

    def read_some(self) -> bytes:
        """What has come; nothing when the other side is done."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._received) or self.closed)
            found = bytes(self._received)
            self._received.clear()
            return found

    def put(self, data: bytes) -> None:
        with self._changed:
            self._received += data
            self._changed.notify_all()

    def acknowledge(self) -> None:
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def finish(self) -> None:
        """Close from this side, when what was written has been taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self.closed)
            if self.closed:
                return
        self.end()
        self.connection.send(b"CLSE", self.local, self.remote)


class _Connection:
    """One adb server that has connected."""

    def __init__(self, device: Phone, peer: socket.socket) -> None:
        self.device = device
        self.max_data = 4096
        self._peer = peer
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._token = b""
        self._next = 1

    def send(self, name: bytes, first: int, second: int, data: bytes = b"") -> None:
        number = int.from_bytes(name, "little")
        checksum = sum(data) & 0xFFFFFFFF
        header = struct.pack("<6I", number, first, second, len(data), checksum, number ^ 0xFFFFFFFF)
        with self._lock, contextlib.suppress(OSError):
            self._peer.sendall(header + data)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        try:
            while True:
                name, first, second, data = self._receive()
                self._handle(name, first, second, data)
        except (EOFError, OSError):
            pass
        finally:
            for stream in list(self._streams.values()):
                stream.end()
            self._peer.close()
            self.device.forget(self)

    def _receive(self) -> tuple[bytes, int, int, bytes]:
        number, first, second, size, _, magic = struct.unpack("<6I", self._exactly(24))
        name = number.to_bytes(4, "little")
        if number ^ 0xFFFFFFFF != magic or name not in _NAMES:
            raise EOFError
        return name, first, second, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            part = self._peer.recv(size - len(found))
            if not part:
                raise EOFError
            found += part
        return bytes(found)

    def _handle(self, name: bytes, first: int, second: int, data: bytes) -> None:
        if self.device.faults.silent:
            return
        if name == b"CNXN":
            self.max_data = min(second, _MAX_DATA)
            self._challenge()
        elif name == b"AUTH":
            self._authenticate(first, data)
        elif name == b"OPEN":
            self._open(first, data.rstrip(b"\0").decode())
        elif (stream := self._streams.get(second)) is not None:
            if name == b"OKAY":
                stream.acknowledge()
            elif name == b"WRTE":
                stream.put(data)
                self.send(b"OKAY", stream.local, stream.remote)
            elif name == b"CLSE":
                stream.end()
                del self._streams[second]

    def _challenge(self) -> None:
        self._token = secrets.token_bytes(20)
        self.send(b"AUTH", _TOKEN, 0, self._token)

    def _authenticate(self, kind: int, data: bytes) -> None:
        if kind == _SIGNATURE and not self.device.faults.refuse_keys:
            if any(_signed_by(key, self._token, data) for key in self.device.keys):
                self._welcome()
                return
        elif kind == _PUBLIC_KEY and not self.device.faults.refuse_keys:
            self.device.keys.append(data)  # the owner taps on "allow"
            self._welcome()
            return
        if kind == _SIGNATURE:
            self._challenge()

    def _welcome(self) -> None:
        properties = "ro.product.name=edgekit;ro.product.model=Persona_A76;ro.product.device=edgekit"
        banner = f"device::{properties};features={_FEATURES}"
        self.send(b"CNXN", _VERSION, _MAX_DATA, banner.encode())

    def _open(self, remote: int, name: str) -> None:
        service = self._service(name)
        if service is None:
            self.send(b"CLSE", 0, remote)
            return
        stream = self._streams[self._next] = Stream(self, self._next, remote)
        self._next += 1
        self.send(b"OKAY", stream.local, remote)
        threading.Thread(target=self._run, args=(service, stream), daemon=True).start()

    def _service(self, name: str) -> Callable[[Stream], None] | None:
        kind, _, command = name.partition(":")
        options = kind.split(",")
        if options[0] == "shell" and "v2" in options:
            return lambda stream: _shell(self.device, stream, command)
        if options[0] == "exec":
            return lambda stream: _exec(self.device, stream, command)
        if options[0] == "sync":
            return lambda stream: Sync(self.device, stream).serve()
        return None

    def _run(self, service: Callable[[Stream], None], stream: Stream) -> None:
        try:
            service(stream)
        except EOFError:
            pass
        finally:
            stream.finish()


def _signed_by(key: bytes, token: bytes, signature: bytes) -> bool:
    """PKCS #1 v1.5 over the token taken as a SHA-1 digest; keys are in Android's RSAPublicKey form."""
    raw = base64.b64decode(key.split(b" ")[0].rstrip(b"\0"))
    size = 4 * int(struct.unpack_from("<I", raw)[0])
    modulus = int.from_bytes(raw[8 : 8 + size], "little")
    exponent = int(struct.unpack_from("<I", raw, 8 + 2 * size)[0])
    padded = b"\0\1" + b"\xff" * (size - 38) + b"\0" + _SHA1_DIGEST_INFO + token
    return pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(size, "big") == padded


def _shell(device: Phone, stream: Stream, command: str) -> None:
    """Packets of (stream number, size, data): what a command reads and prints, and its exit code."""
    process = device.spawn(command)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    seen = bytearray()

    def feed() -> None:
        try:
            while True:
                kind, size = struct.unpack("<BI", stream.read(5))
                data = stream.read(size)
                if kind == _STDIN:
                    process.stdin.write(data)
                    process.stdin.flush()
                elif kind == _CLOSE_STDIN:
                    process.stdin.close()
        except (EOFError, OSError, ValueError):
            # adbd closes the pipes of a command whose connection is gone, and hangs up its group.
            with contextlib.suppress(OSError):
                process.stdin.close()
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGHUP)

    def pump(source: int, kind: int) -> None:
        while data := os.read(source, 32768):
            stream.write(struct.pack("<BI", kind, len(data)) + data)
            seen.extend(data)
            wanted = device.faults.cut_on_output
            if wanted is not None and wanted in seen:
                device.vanish()
                return

    pumps = [
        threading.Thread(target=pump, args=(pipe.fileno(), kind), daemon=True)
        for pipe, kind in ((process.stdout, _STDOUT), (process.stderr, _STDERR))
    ]
    threading.Thread(target=feed, daemon=True).start()
    for thread in pumps:
        thread.start()
    for thread in pumps:
        thread.join()
    code = process.wait()
    stream.write(struct.pack("<BIB", _EXIT, 1, (128 - code if code < 0 else code) & 0xFF))
    process.stdout.close()
    process.stderr.close()


def _exec(device: Phone, stream: Stream, command: str) -> None:
    """Bytes in, bytes out, no exit code: how an app is streamed to the package manager."""
    process = device.spawn(command)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None

    def feed() -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := stream.read_some():
                process.stdin.write(data)
                process.stdin.flush()
            process.stdin.close()

    threading.Thread(target=feed, daemon=True).start()
    while data := os.read(process.stdout.fileno(), 32768):
        stream.write(data)
    process.wait()
    process.stdout.close()
    process.stderr.close()
