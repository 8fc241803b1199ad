"""The contract of a backend. Whatever searches, verifies, measures or reports is written against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.types import (
    Artifact,
    DeviceCommand,
    Emit,
    ModelSpec,
    OpCoverage,
    RunProtocol,
    Scheme,
    Session,
    Support,
    Unit,
)

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.store import Store
    from edgekit.types import Array


class Backend(Protocol):
    """One runtime: how to write its files, run them here and run them on a device."""

    name: str

    def supports(self, profile: DeviceProfile, target: Target, scheme: Scheme) -> Support:
        """Whether this backend can write ``scheme`` for that target of the profile, and why not."""
        ...

    def tools(self) -> Mapping[str, str]:
        """Versions of the tools that shape this backend's files; they enter every cache key."""
        ...

    def export(
        self,
        source: Any,
        spec: ModelSpec,
        samples: Sequence[Sequence[Array]],
        *,
        store: Store,
        scheme: Scheme,
        emit: Emit,
    ) -> Artifact:
        """The float file. ``source`` is a torch module or the path of an ONNX file; ``samples`` are real
        inputs in source layout, batch 1. ``meta`` of the artifact tells exporter and intermediate files."""
        ...

    def quantize(
        self,
        artifact: Artifact,
        samples: Sequence[Sequence[Array]],
        scheme: Scheme,
        *,
        refit: bool,
        store: Store,
        emit: Emit,
    ) -> Artifact:
        """The file in ``scheme``, calibrated on ``samples``. ``meta`` tells how ranges were chosen.

        With ``refit`` the chosen method is fitted to all samples at the end; without, every fifth sample
        stays unseen, so that gates can be measured on them.
        """
        ...

    def units(self, artifact: Artifact) -> list[Unit]:
        """What can be quantised or kept in float, in execution order."""
        ...

    def session(self, artifact: Artifact, *, keep_all: bool = False) -> Session:
        """The file loaded on the host."""
        ...

    def coverage(self, artifact: Artifact, target: Target) -> list[OpCoverage]:
        """Per operator: accelerated by the target's delegate or not, and why."""
        ...

    def check(self, artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
        """Facts read from the file itself (share of int8 operators, transposes) and complaints."""
        ...

    def runtime_files(self, arch: str, store: Store) -> Mapping[str, Path]:
        """What runs the files on a machine, by name there; compiled or fetched when it is not there yet.

        Raises MissingDependency when that cannot be done here.
        """
        ...

    def device_command(
        self,
        artifact: Artifact,
        inputs: Sequence[Array],
        *,
        arch: str,
        protocol: RunProtocol,
        per_op: bool,
        store: Store,
        scratch: Path,
    ) -> DeviceCommand:
        """What a link has to run for one measurement on ``inputs``, arrays as the artifact stores them."""
        ...

    def parse(self, stdout: str) -> Mapping[str, Any]:
        """The runner's own report: runs_ms, load_ms, peak_rss_kb, events."""
        ...

    def read_outputs(self, artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
        """Output arrays (artifact layout) from the files that the runner wrote."""
        ...
