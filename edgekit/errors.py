"""Every error that edgekit raises on purpose, with the exit code of the command line.

    EdgekitError                     5   (never raised itself)
    ├── UserError                    2   what was asked cannot be meant: bad option, file, profile, data
    │   ├── ProfileError             2   a device profile is unknown or malformed
    │   ├── SourceError              2   a model source does not load or does not run
    │   └── DataError                2   calibration, evaluation or training data does not fit the model
    ├── MissingDependency            3   a program or package is missing; the hint is the mending command
    ├── Unsupported                  4   the target cannot do this: no backend, no operator, no precision
    ├── StepFailed                   5   a step of the build failed
    │   ├── ConversionError          5   a converter refused the model or crashed
    │   ├── ParityError              5   a float stage does not compute what its source computes
    │   └── StoreError               5   the store cannot be read or written: full disk, damaged object
    ├── GateFailed                   6   the build is done but a gate is broken
    └── DeviceError                  7   a device or emulator did not do as it was told
        ├── DeviceLost               7   the connection broke, or there is none to be had
        └── DeviceTimeout            7   it did not end in time and was stopped

An exception that is not in this tree is a bug of edgekit: exit code 70.

Messages say what is wrong and where, in one sentence; ``hint`` says what to do next.
Errors of other libraries are translated where they enter, ``raise ... from exc``.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_BUG = 70


class EdgekitError(Exception):
    """Base of the tree. ``str(error)`` is the sentence; ``error.hint`` is the next step or None."""

    exit_code = 5

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UserError(EdgekitError):
    exit_code = 2


class ProfileError(UserError):
    pass


class SourceError(UserError):
    pass


class DataError(UserError):
    pass


class MissingDependency(EdgekitError):
    exit_code = 3


class Unsupported(EdgekitError):
    exit_code = 4


class StepFailed(EdgekitError):
    exit_code = 5


class ConversionError(StepFailed):
    pass


class ParityError(StepFailed):
    pass


class StoreError(StepFailed):
    pass


class GateFailed(EdgekitError):
    exit_code = 6


class DeviceError(EdgekitError):
    exit_code = 7


class DeviceLost(DeviceError):
    pass


class DeviceTimeout(DeviceError):
    pass
