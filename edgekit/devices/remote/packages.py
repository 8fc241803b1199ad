"""The Python of a machine: which packages it has."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.devices.base import choices, first_unmet
from edgekit.devices.remote.script import run_script
from edgekit.errors import MissingDependency

if TYPE_CHECKING:
    from edgekit.devices.remote.transport import Transport

PYTHON_VARIABLE = "EDGEKIT_DEVICE_PYTHON"
"""Environment variable that names the Python on the device; without it python3 of its PATH."""

_VERSIONS = """\
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "-")
"""


def device_python() -> str:
    """The interpreter to start there."""
    return os.environ.get(PYTHON_VARIABLE) or "python3"


def device_packages(transport: Transport, names: Sequence[str]) -> dict[str, str] | None:
    """Versions of the packages of ``names`` that the Python there has; None when there is no Python."""
    command = shlex.join([device_python(), "-c", _VERSIONS, *names])
    said = run_script(transport, command, doing="looking for Python packages")
    if said.returncode != 0:
        return None
    pairs = [line.split() for line in said.stdout.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1] != "-"}


def check_device_packages(transport: Transport, requirements: Sequence[str]) -> str:
    """The Python there, which has ``requirements`` ("torch>=2.8", see :func:`edgekit.devices.base.choices`).

    Raises MissingDependency when not."""
    found = device_packages(transport, [r.name for choice in choices(requirements) for r in choice])
    where = transport.name
    if found is None and transport.self_contained:
        raise MissingDependency(
            f"{where} has no Python that runs as {device_python()}",
            hint="phones run .tflite and .pte files, by edgekit's own runner for 64-bit Arm; for it install "
            "here: apt-get install --no-install-recommends gcc-aarch64-linux-gnu g++-aarch64-linux-gnu",
        )
    if found is None:
        raise MissingDependency(
            f"{where} has no Python that runs as {device_python()}",
            hint=f"install python3 there, or name it with {PYTHON_VARIABLE}",
        )
    unmet = first_unmet(requirements, found)
    if unmet is not None:
        has, install = unmet
        raise MissingDependency(
            f"the Python of {where} {has}",
            hint=f"there: {device_python()} -m pip install '{install}'; "
            f"a Python of a virtual environment is named with {PYTHON_VARIABLE}",
        )
    return device_python()
