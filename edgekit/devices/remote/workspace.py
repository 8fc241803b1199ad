"""A folder on a machine elsewhere: files pushed into it, programs run in it, files pulled from it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgekit.devices.base import RunResult, check_names, last_lines, raise_crash, raise_missing_library
from edgekit.devices.elf import needs_glibc
from edgekit.devices.remote.script import check, failure, run_script
from edgekit.devices.remote.selfcontained import LOADER, LOADER_ARGV
from edgekit.devices.remote.session import Session, require_alive
from edgekit.errors import DeviceError, DeviceLost, DeviceTimeout
from edgekit.store import digest_file

if TYPE_CHECKING:
    from edgekit.devices.remote.link import RemoteLink

_SIGNALLED = 128
"""A shell reports a program that signal N ended as 128 + N."""
_NOT_RUN, _NOT_FOUND = 126, 127
_PULL_S = 600.0
_BYTES_PER_S = 50_000
"""Slowest connection on which a push is still waited for."""

_RUN = """mkdir -p {folder} && cd {folder} || exit 125
{exports}
start=
command -v setsid >/dev/null 2>&1 && start=setsid
$start {argv} </dev/null &
echo "$!" >{pid}
wait "$!"
rc=$?
rm -f {pid}
exit "$rc"
"""


class RemoteWorkspace:
    """A folder of a session. Files that were pushed in the session before are copied there, not pushed."""

    def __init__(self, link: RemoteLink) -> None:
        self._link = link
        self._name = f"work-{secrets.token_hex(4)}"
        self._pushed: dict[str, Path] = {}
        self._digests: dict[str, str] = {}
        self._ran = False

    @property
    def folder(self) -> str:
        return f"{self._link._held('using a folder').folder}/{self._name}"

    def push(self, files: Mapping[str, Path]) -> None:
        """See :meth:`edgekit.devices.base.Workspace.push`."""
        check_names(files)
        if not files:
            return
        digests = {name: _digest(name, path) for name, path in files.items()}
        try:
            self._push(files, digests)
        except DeviceLost as lost:
            if self._ran:
                raise
            try:
                self._link._renew()
            except DeviceError as exc:
                raise DeviceLost(f"{lost}, and it did not come back", hint=f"{exc}; {exc.hint}") from exc
            # What was there went with the session: all of it again.
            self._push({**self._pushed, **files}, {**self._digests, **digests})
        self._pushed |= files
        self._digests |= digests

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        cpus: Sequence[int] = (),
    ) -> RunResult:
        """See :meth:`edgekit.devices.base.Workspace.run`."""
        if argv[0] in self._pushed:
            self.push(self._link._with_libraries(self._pushed[argv[0]]))
        return self.start(None, argv, timeout_s=timeout_s, env=env or {}, cpus=cpus)

    def start(
        self,
        python: str | None,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str],
        cpus: Sequence[int],
    ) -> RunResult:
        """:meth:`run` for files that are complete; ``python`` is the interpreter of a program in Python."""
        link, program = self._link, argv[0]
        if any("\0" in part for part in (*argv, *env, *env.values())):
            raise ValueError("an argument or a variable holds a NUL character")
        session = link._held(f"starting {program}")
        pinned = ("taskset", f"{sum(1 << cpu for cpu in set(cpus)):x}") if cpus else ()
        before: Sequence[str] = (python,) if python else ()
        pushed = self._pushed.get(program)
        if pushed is not None and python is None and LOADER in self._pushed and needs_glibc(pushed):
            before = LOADER_ARGV
        name = f"./{program}" if pushed is not None else program
        pid = f"../pids/{secrets.token_hex(4)}"
        body = _RUN.format(
            folder=self.folder,
            exports="".join(f"export {_variable(k)}={shlex.quote(v)}\n" for k, v in env.items()),
            argv=shlex.join([*pinned, *before, name, *argv[1:]]),
            pid=pid,
        )
        self._ran = True
        doing = f"running {program}"
        try:
            said = run_script(link._transport, body, timeout_s=timeout_s, doing=doing)
        except DeviceTimeout as exc:
            self._stop(session)
            raise DeviceTimeout(
                f"{program} did not end within {timeout_s:g} s on {link.name} and was stopped"
            ) from exc
        if said.returncode == 125 and not said.stdout:
            require_alive(session, link._transport, doing)
            raise failure(said.stderr, link._transport, doing)
        raise_missing_library(program, said.returncode, said.stderr, link.name)
        _raise_unrunnable(program, said.returncode, said.stderr, link.name)
        if said.returncode > _SIGNALLED:
            raise_crash(program, _SIGNALLED - said.returncode, said.stderr, link.name)
        return RunResult(
            returncode=said.returncode, stdout=said.stdout, stderr=said.stderr, seconds=said.seconds
        )

    def pull(self, name: str, target: Path) -> None:
        """See :meth:`edgekit.devices.base.Workspace.pull`."""
        check_names([name])
        digest = self._set_out([name])[0]
        if digest is None:
            raise DeviceError(f"{self._link.name} has no file {name} to pull")
        self._receive(name, 0, digest, target)

    def collect(self, names: Sequence[str], done: RunResult, program: str) -> dict[str, bytes]:
        """Bring outputs back. Raises DeviceError for one that a program which ended well did not write."""
        found: dict[str, bytes] = {}
        if not names:
            return found
        for place, (name, digest) in enumerate(zip(names, self._set_out(names), strict=True)):
            if digest is not None:
                with self._link._store.scratch() as folder:
                    self._receive(name, place, digest, folder / "output")
                    found[name] = (folder / "output").read_bytes()
            elif done.returncode == 0:
                raise DeviceError(
                    f"{program} ended well but did not write {name}", hint=last_lines(done.stderr)
                )
        return found

    def remove(self) -> None:
        """Remove the folder, if its session is still there and goes on."""
        link = self._link
        if link._depth > 1 and link._session is not None and link._session.alive():
            link._script(f"rm -rf {link._session.folder}/{self._name}", "tidying up")

    def _push(self, files: Mapping[str, Path], digests: Mapping[str, str]) -> None:
        link = self._link
        session = link._held("pushing files")
        left = {digest: files[name] for name, digest in digests.items() if digest not in session.files}
        for _ in range(2):
            limit = 60 + sum(source.stat().st_size for source in left.values()) / _BYTES_PER_S
            if left:
                link._transport.send(left, f"{session.folder}/files", timeout_s=limit)
            damaged = self._set_up(files, digests, left)
            session.files |= left.keys() - damaged
            left = {digest: source for digest, source in left.items() if digest in damaged}
            if not left:
                return
        names = ", ".join(source.name for source in left.values())
        raise DeviceError(
            f"{names} did not arrive whole on {link.name}, twice",
            hint="the connection or the storage there damages files",
        )

    def _set_up(
        self, files: Mapping[str, Path], digests: Mapping[str, str], sent: Mapping[str, Path]
    ) -> set[str]:
        """Check what was sent, and copy all files to their names; the digests of those that are damaged."""
        link, work = self._link, f"../{self._name}"
        script = [f"cd {link._held('pushing files').folder}/files || exit 125"]
        if sent:
            script.append(f"sha256sum {' '.join(sent)} || exit 1")
        copies: dict[str, list[str]] = {"700": [], "600": []}
        for name in digests:
            head = _head(files[name])
            runs = os.access(files[name], os.X_OK) or head[:4] == b"\x7fELF" or head[:2] == b"#!"
            copies["700" if runs else "600"].append(shlex.quote(f"{work}/{name}"))
        folders = sorted({shlex.quote(f"{work}/{PurePosixPath(name).parent}") for name in digests})
        script.append(f"mkdir -p {' '.join(folders)} || exit 1")
        for name, digest in digests.items():
            script.append(f"cp {digest} {shlex.quote(f'{work}/{name}')} || exit 1")
        for mode, paths in copies.items():
            if paths:
                script.append(f"chmod {mode} {' '.join(paths)} || exit 1")
        said = link._script("\n".join(script), "pushing files")
        check(said, link._transport, "pushing files")
        rows = [line.split() for line in said.stdout.splitlines()]
        whole = {row[0] for row in rows if len(row) == 2 and row[0] == row[1]}
        return sent.keys() - whole

    def _set_out(self, names: Sequence[str]) -> list[str | None]:
        """Lay files ready to be pulled, under plain names; the SHA-256 of each, None for one that is none.

        Plain, since what a client would have to quote is never given to it.
        """
        script = [f"cd {self.folder} || exit 125"]
        for place, name in enumerate(names):
            path, out = shlex.quote(f"./{name}"), f"../files/pull{place}"
            script.append(
                f"if [ -f {path} ] && [ ! -L {path} ]; then cp {path} {out} && sha256sum <{out} || exit 1; "
                "else echo -; fi"
            )
        said = self._link._script("\n".join(script), "pulling files")
        check(said, self._link._transport, "pulling files")
        found = [line.split()[0] for line in said.stdout.splitlines() if line.strip()]
        if len(found) != len(names):
            raise DeviceError(f"{self._link.name} gave {len(found)} hashes for {len(names)} files")
        return [digest if re.fullmatch("[0-9a-f]{64}", digest) else None for digest in found]

    def _receive(self, name: str, place: int, digest: str, target: Path) -> None:
        link = self._link
        source = f"{link._held(f'pulling {name}').folder}/files/pull{place}"
        part = target.with_name(f"{target.name}.part")
        try:
            link._transport.receive(source, part, timeout_s=_PULL_S)
            if digest_file(part) != digest:
                raise DeviceError(f"{name} did not come back whole from {link.name}")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _stop(self, session: Session) -> None:
        """Kill what runs in the session: a program that did not end in time."""
        body = (
            f'for p in {session.folder}/pids/*; do read -r pid <"$p" && '
            '{ kill -9 "-$pid" || kill -9 "$pid"; } 2>/dev/null; rm -f "$p"; done'
        )
        with contextlib.suppress(DeviceLost, DeviceTimeout):
            self._link._script(body, "stopping a program")


def _raise_unrunnable(program: str, returncode: int, stderr: str, where: str) -> None:
    """Raise DeviceError for a program that the machine could not start."""
    if returncode in (_NOT_RUN, _NOT_FOUND):
        reason = "cannot be run" if returncode == _NOT_RUN else "was not found, or its loader was not,"
        raise DeviceError(f"{program} {reason} on {where}", hint=last_lines(stderr))


def _digest(name: str, path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as exc:
        raise DeviceError(f"cannot push {name}: {exc.strerror} ({path})") from exc


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(20)
    except OSError:
        return b""


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name of a variable")
    return name
