"""Torch files: ``.pt2`` programs, TorchScript, and weights. Nothing here unpickles code.

torch.load is always called with weights_only. A .pt2 archive may hold pickles (custom objects,
sample inputs) that torch.export.load would unpickle without asking, so its entries are looked at
first and a pickle that needs more than tensors is refused.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import torch

_SAVE_AGAIN = "save plain tensors: torch.save(model.state_dict(), path), or safetensors"
_SHOWN_KEYS = 4


def load_program(path: Path) -> tuple[torch.nn.Module, tuple[TensorSpec, ...] | None, tuple[str, ...]]:
    """A ``.pt2`` file: the module, the signature of its stored sample inputs or None, its input names.

    Raises SourceError when the file is not a torch.export archive, or holds unsafe pickles.
    """
    import torch

    from edgekit.sources.exported import ExportedModel

    _refuse_unsafe_archive(path)
    try:
        program = torch.export.load(path)
        module = ExportedModel(program.module())
    except Exception as exc:
        raise SourceError(
            f"{path} is not a program that torch.export of {torch.__version__} can load: {_short(exc)}",
            hint="export again: torch.export.save(torch.export.export(model.eval(), (example,)), path)",
        ) from exc
    samples = program.example_inputs[0] if program.example_inputs else ()
    tensors = all(isinstance(s, torch.Tensor) for s in samples)
    names = tuple(program.graph_signature.user_inputs)
    if not samples or not tensors or len(samples) != len(names) or not all(s.numel() for s in samples):
        return module, None, names
    specs = tuple(
        TensorSpec(name=n, shape=tuple(map(int, t.shape)), dtype=str(t.dtype).removeprefix("torch."))
        for n, t in zip(names, samples, strict=True)
    )
    return module, specs, names


def load_torchscript(path: Path) -> torch.nn.Module:
    """A TorchScript file. Raises SourceError; tells when the file holds plain weights instead."""
    import torch

    try:
        module: torch.nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as exc:
        if _holds_weights(path):
            raise SourceError(
                f"{path} holds weights only, and no model to put them into",
                hint=f"give a callable that makes the model, and the file as --weights {path}",
            ) from exc
        if _is_pickled(path):
            raise SourceError(
                f"{path} is a pickled object, not a TorchScript file, and loading it would run its code",
                hint="give a callable that makes the model, and its state dict as --weights",
            ) from exc
        raise SourceError(
            f"{path} is not a TorchScript file: {_short(exc)}",
            hint="save it with torch.jit.script(model).save(path), or torch.jit.trace(...).save(path)",
        ) from exc
    return module


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Load a safetensors or torch file into ``module``, strictly: same names, same shapes.

    A torch file may nest the tensors under "state_dict" or "model_state_dict"; a "module." prefix on
    all names (DataParallel) is taken off. Raises SourceError naming what is missing or too much.
    """
    state = _read_state(path)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        parts = [
            f"{word} {len(names)} ({', '.join([*names[:_SHOWN_KEYS], *['...'][: len(names) - _SHOWN_KEYS]])})"
            for word, names in (("lacks", missing), ("has unknown", extra))
            if names
        ]
        raise SourceError(
            f"{path} does not fit the model: of its {len(own)} tensors it {' and '.join(parts)}",
            hint="these weights belong to another architecture or to other constructor arguments",
        )
    for name, tensor in state.items():
        if tuple(tensor.shape) != tuple(own[name].shape):
            raise SourceError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model wants {tuple(own[name].shape)}",
                hint="these weights belong to another architecture or to other constructor arguments",
            )
    module.load_state_dict(state, strict=True)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    import torch

    if not path.is_file():
        raise SourceError(f"no such weights file: {path}", hint="check --weights")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            loaded: dict[str, torch.Tensor] = load_file(path)
        except Exception as exc:
            raise SourceError(
                f"{path} is not a safetensors file: {_short(exc)}", hint="save it again"
            ) from exc
        return loaded
    try:
        with warnings.catch_warnings():  # of old pickle protocols, which are refused below
            warnings.simplefilter("ignore")
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise SourceError(
            f"{path} is a pickle that holds more than tensors, and loading it would run its code",
            hint=_SAVE_AGAIN,
        ) from exc
    except Exception as exc:
        raise SourceError(f"{path} is not a torch file: {_short(exc)}", hint=_SAVE_AGAIN) from exc
    for key in ("state_dict", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise SourceError(f"{path} holds no state dict (names to tensors)", hint=_SAVE_AGAIN)
    return {str(name): tensor for name, tensor in found.items()}


def _refuse_unsafe_archive(path: Path) -> None:
    """Raise SourceError unless every entry of a .pt2 archive is JSON, raw tensors or a safe pickle."""
    import torch

    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as exc:
        raise SourceError(
            f"{path} is not a torch.export archive: {_short(exc)}", hint="export it again"
        ) from exc
    with archive:
        names = archive.namelist()
        if not any(name.endswith("/archive_format") for name in names):
            raise SourceError(
                f"{path} was saved by a torch before 2.8", hint="save it again with a newer torch"
            )
        for name in names:
            leaf = name.rsplit("/", 1)[-1]
            unsafe = leaf.startswith(("custom_obj", "opaque_obj"))
            if leaf.endswith(".json") and "_config" in leaf:
                unsafe |= '"use_pickle":true' in json.dumps(
                    json.loads(archive.read(name)), separators=(",", ":")
                )
            elif leaf.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
                except Exception:
                    unsafe = True
            if unsafe:
                raise SourceError(
                    f"{path}: its entry {leaf!r} is a pickle that holds more than tensors",
                    hint="export the model without custom objects or tensor subclasses",
                )


def _is_pickled(path: Path) -> bool:
    """Whether torch.save made it: a TorchScript archive has constants beside its pickle."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        leaves = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
    return "data.pkl" in leaves and "constants.pkl" not in leaves


def _holds_weights(path: Path) -> bool:
    try:
        return bool(_read_state(path))
    except SourceError:
        return False


def _short(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:300]}" if lines else type(exc).__name__
