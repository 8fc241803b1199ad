"""The contract of a backend. Whatever searches, verifies, measures or reports is written against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edgekit.types import (
    Artifact,
    DeviceCommand,
    Emit,
    ModelSpec,
    OpCoverage,
    Precision,
    Problem,
    RunProtocol,
    Scheme,
    Session,
    Support,
    Unit,
)

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.store import Store
    from edgekit.types import Array


class Backend(Protocol):
    """One runtime: how to write its files, run them here and run them on a device."""

    name: str

    @property
    def delegates(self) -> tuple[str, ...]:
        """Delegates whose operator rules this backend knows."""
        ...

    def supports(self, profile: DeviceProfile, target: Target, scheme: Scheme) -> Support:
        """Whether this backend can write ``scheme`` for that target of the profile, and why not."""
        ...

    def preflight(
        self, source: Any, spec: ModelSpec, graph: TorchGraph | None, *, scheme: Scheme
    ) -> list[Problem]:
        """Operators of the model that this backend cannot take, found in seconds and without conversion.

        ``source`` is a torch module or the path of an ONNX file; ``graph`` is the module's exported graph,
        None for a file. Every problem names module path, operator, reason and what to change.
        """
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
        inputs in source layout, batch 1. ``meta`` tells "exporter" and "exporter_notes" (what was tried
        before and why it was not taken) and intermediate files in the store under names that end in
        "_sha256"; "onnx_sha256" is the ONNX file on the way, where there is one.

        Raises Unsupported naming operator and module for what preflight could not foresee."""
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
        """What can be quantised or kept in float, in execution order.

        A quantised file has the units of its parent in the same order: operators that only convert
        between precisions are no units.
        """
        ...

    def session(self, artifact: Artifact, *, keep_all: bool = False) -> Session:
        """The file loaded on the host."""
        ...

    def coverage(self, artifact: Artifact, target: Target) -> list[OpCoverage]:
        """Per operator: accelerated by the target's delegate or not, and why."""
        ...

    def check(self, artifact: Artifact, scheme: Scheme) -> tuple[Mapping[str, float], list[str]]:
        """Facts read from the file itself and complaints: where it is not what ``scheme`` asked for.

        Facts hold at least "ops" and "transposes" (counts) and "int8_share" (percent of the arithmetic
        operators that compute in int8).
        """
        ...

    def open_file(self, path: Path) -> Artifact:
        """An artifact for a file of any origin, for `inspect`, `verify` and `bench`. Layouts are unknown.

        Raises UserError for a damaged file or one of another format, Unsupported for one that cannot be run.
        """
        ...

    def tolerance(self, precision: Precision) -> tuple[float, float]:
        """How far two machines may differ on one file: a share of the output's largest value, and a share
        of each value. (0, 0) is bit for bit."""
        ...

    def divergence(
        self, artifact: Artifact, sample: Sequence[Array], *, tolerance: float, store: Store
    ) -> str | None:
        """Words for the first layer whose float values differ from the source's by more than
        ``tolerance``, relative; None when none does or that cannot be told."""
        ...

    def companions(self, target: Target, scheme: Scheme) -> tuple[Scheme, ...]:
        """Further schemes of the model that belong into the same bundle, for a device that shall choose."""
        ...

    def bundle_files(
        self, artifacts: Sequence[Artifact], profile: DeviceProfile, target: Target
    ) -> Mapping[str, bytes]:
        """Further files of the bundle by their names in it: scripts that build or measure on the device.

        ``artifacts`` are the file of the plan and its companions; in the bundle each is
        "model" + suffix for the first, "model_PRECISION" + suffix for the others.
        """
        ...

    def runtime_files(self, arch: str, store: Store) -> Mapping[str, Path]:
        """What runs the files on a machine, by name there; compiled or fetched when it is not there yet.

        Raises MissingDependency when that cannot be done here.
        """
        ...

    def device_python(self, arch: str, delegate: str) -> tuple[str, ...]:
        """Packages that a Python of the device must have to run the files ("onnxruntime>=1.20"), those of
        :attr:`edgekit.types.DeviceCommand.python`; empty where a compiled program runs them."""
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

    def parse(self, stdout: str, outputs: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
        """The runner's own report: runs_ms, load_ms, peak_rss_kb and, when it was asked for, "ops".

        "ops" has one {"name", "us"} per operator in execution order, of one inference; with "op", its type,
        where the name is that of a node of the model. ``outputs`` are the files that the runner wrote, for
        runtimes whose profile is one of them. Raises DeviceError.
        """
        ...

    def read_outputs(self, artifact: Artifact, files: Sequence[bytes]) -> list[Array]:
        """Output arrays (artifact layout) from the files that the runner wrote."""
        ...


@runtime_checkable
class Simulating(Protocol):
    """A backend that can play int8 without writing a file for it: then layers can be ranked one by one."""

    def simulator(
        self,
        artifact: Artifact,
        samples: Sequence[Sequence[Array]],
        heard: Sequence[Sequence[Array]],
        scheme: Scheme,
    ) -> Callable[[frozenset[str]], list[Array]]:
        """What gives outputs on ``heard``, one array for each output, when all of the float ``artifact`` but
        the units that are named is in int8, with ranges from ``samples``. Units that ``scheme`` overrides
        stay as it says; biases are not corrected."""
        ...
