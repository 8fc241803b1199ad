"""A link without a machine, for tests of what uses links."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.devices.base import Conditions, RunResult, check_command, collect, push, raise_crash
from edgekit.devices.folder import FolderWorkspace, folder_workspace
from edgekit.devices.process import Finished
from edgekit.errors import DeviceError
from edgekit.store import Store
from edgekit.types import DeviceCommand, MeasurementSource

Program = Callable[[DeviceCommand, Path], RunResult]
"""Plays the program: gets the command and the folder with the pushed files, and may write outputs there."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One call of :meth:`FakeLink.run`."""

    command: DeviceCommand
    files: Mapping[str, bytes]
    """What was pushed, by name on the device."""
    timeout_s: float
    count: bool
    caches: bool
    per_op: bool


class FakeLink:
    """Answers each command with the next scripted answer and remembers what it was asked.

    An answer is a result to return, an exception to raise, or a function that plays the program. A
    function given alone answers every command. Checks commands and outputs as real links do.
    """

    def __init__(
        self,
        answers: Iterable[RunResult | Exception | Program] | Program,
        *,
        store: Store,
        name: str = "fake",
        arch: str = "aarch64",
        source: MeasurementSource = "device",
        facts: Mapping[str, Any] | None = None,
        conditions: Iterable[Conditions] = (),
    ) -> None:
        self.name = name
        self.arch = arch
        self.source: MeasurementSource = source
        self.calls: list[Recorded] = []
        self._facts = dict(facts or {"name": name, "arch": arch, "emulated": False})
        self._always = answers if callable(answers) else None
        self._answers = iter(()) if callable(answers) else iter(answers)
        self._store = store
        self._conditions = list(conditions) or [Conditions()]

    def facts(self) -> dict[str, Any]:
        """What the test gave."""
        return dict(self._facts)

    def conditions(self) -> Conditions:
        """The next of what the test gave, the last again and again."""
        if len(self._conditions) > 1:
            return self._conditions.pop(0)
        return self._conditions[0]

    def prepare(self, *, count: bool) -> None:
        """Nothing to do."""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to lock."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def workspace(self) -> Iterator[FolderWorkspace]:
        """A folder of this host; its programs are played by the function that answers every command."""
        with folder_workspace(self._store, self._play, self.name) as space:
            yield space

    def close(self) -> None:
        """Nothing to give up."""

    def run(
        self,
        command: DeviceCommand,
        *,
        timeout_s: float,
        count: bool = False,
        caches: bool = False,
        per_op: bool = False,
    ) -> RunResult:
        """See :meth:`edgekit.devices.base.Link.run`. DeviceError when the script has no answer left."""
        check_command(command)
        with self._store.scratch() as folder:
            push(command, folder)
            files = {name: (folder / name).read_bytes() for name in command.files}
            self.calls.append(
                Recorded(
                    command=command,
                    files=files,
                    timeout_s=timeout_s,
                    count=count,
                    caches=caches,
                    per_op=per_op,
                )
            )
            answer = self._always or next(self._answers, None)
            if answer is None:
                raise DeviceError(f"the fake link has no answer left for {command.argv[0]}")
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, RunResult):
                return answer
            result = answer(command, folder)
            raise_crash(command.argv[0], result.returncode, result.stderr, self.name)
            written = collect(command, folder, returncode=result.returncode, stderr=result.stderr)
        return RunResult(
            returncode=result.returncode,
            stdout=result.stdout,
            stderr=result.stderr,
            outputs={**written, **result.outputs},
            regions=result.regions,
            totals=result.totals,
            peak_rss_bytes=result.peak_rss_bytes,
            seconds=result.seconds,
        )

    def _play(
        self,
        folder: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        cpus: Sequence[int],
        timeout_s: float,
    ) -> Finished:
        if self._always is None:
            raise DeviceError(f"the fake link has no function that plays {argv[0]}")
        there = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
        command = DeviceCommand(argv=tuple(argv), files=there, env=dict(env), cpus=tuple(cpus))
        result = self._always(command, folder)
        return Finished(
            returncode=result.returncode,
            output=result.stdout.encode(),
            stderr=result.stderr,
            peak_rss_bytes=result.peak_rss_bytes,
            seconds=result.seconds,
        )
