"""A cable between a client and a server on loopback that can be pulled out."""

from __future__ import annotations

import contextlib
import socket
import threading


class Cable:
    """Passes bytes on to ``target``; :meth:`cut` breaks all connections, :attr:`plugged` says whether new
    ones are taken. With ``cut_up_after`` or ``cut_down_after`` it breaks by itself, once, when so many bytes
    of one connection have gone to the server or come from it.
    """

    def __init__(self, target: int) -> None:
        self.plugged = True
        self.cut_up_after: int | None = None
        self.cut_down_after: int | None = None
        self._target = target
        self._ends: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in list(self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.plugged:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends |= {near, far}
            for source, sink, up in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pass_on, args=(source, sink, up), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                passed += len(data)
                limit = self.cut_up_after if up else self.cut_down_after
                if limit is not None and passed >= limit:
                    self.cut_up_after = self.cut_down_after = None
                    self.cut()
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._ends.discard(end)
