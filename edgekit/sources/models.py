"""Load the user's model, whatever it comes as, and say what it is.

    file.py:callable   package.module:callable   a function without arguments that returns a module
    model.pt2                                    torch.export program (not trainable here)
    model.pt / .ts / .torchscript                TorchScript (not trainable here)
    model.onnx                                   ONNX (no torch module at all)
    None                                         the built-in demo

The model is run once before anything else is done with it, so that a wrong shape, a forward that
raises, NaN weights or NaN outputs end the build at its first second, in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import DataError, SourceError
from edgekit.sources import inspection
from edgekit.sources.arrays import Data
from edgekit.sources.callables import UserCode, blamed, is_callable_spec, resolve
from edgekit.types import ModelSpec, Preprocessing, Task, TensorSpec

if TYPE_CHECKING:
    import torch

DEMO_NAME = "digits_demo"
DEMO_SOURCE = "demo"
_TORCHSCRIPT = (".pt", ".pth", ".ts", ".torchscript")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that loads and runs.

    ``module`` is in eval mode, on the CPU; None for .onnx, whose file is ``onnx_path``.
    ``example_inputs`` have the shapes of ``spec.inputs``: calibration samples when there were any,
    else seeded standard-normal values.
    """

    spec: ModelSpec
    module: torch.nn.Module | None
    onnx_path: Path | None
    example_inputs: tuple[torch.Tensor, ...]


def load_model(
    spec: str | None,
    *,
    weights: Path | None = None,
    input_shapes: Sequence[tuple[int, ...]] | None = None,
    input_dtypes: Sequence[str | None] | None = None,
    calib: Data | None = None,
    task: Task | None = None,
) -> LoadedModel:
    """Load and run a model.

    ``input_shapes`` are batch first, one per input; without them the shapes of the calibration
    samples are taken with a batch of 1, or those stored in a .pt2 or .onnx file. ``input_dtypes`` are
    numpy names such as "int64", one per input; None stands for that of the calibration samples, of the
    file, or float32. ``task`` overrides the guess (classification when the single output is (n, C), C >= 2).

    Raises SourceError when the model does not load, does not run, or holds or gives NaN; DataError
    when the calibration samples are channels-last for a channels-first model.
    """
    if spec is None:
        return _load_demo(weights)
    path = Path(spec)
    if is_callable_spec(spec):
        return _load_callable(spec, weights, _Wanted(input_shapes, input_dtypes, calib), task)
    if path.suffix == ".py":
        raise SourceError(
            f"{spec} names no callable", hint=f"write {spec}:NAME, NAME a function without arguments"
        )
    if path.suffix not in (".pt2", ".onnx", *_TORCHSCRIPT):
        raise SourceError(
            f"cannot tell what kind of model {spec!r} is",
            hint="give file.py:callable, package.module:callable, or a .pt2, .onnx or TorchScript .pt file",
        )
    if not path.is_file():
        raise SourceError(
            f"no such file: {spec}", hint="check the path; it is relative to the current folder"
        )
    if weights is not None:
        raise SourceError(
            f"{spec} holds its own weights", hint="leave --weights away, or give file.py:callable"
        )
    if path.suffix == ".onnx":
        return _load_onnx(path, _Wanted(input_shapes, input_dtypes, calib), task)
    return _load_torch_file(path, _Wanted(input_shapes, input_dtypes, calib), task)


@dataclass(frozen=True)
class _Wanted:
    """What was said of the inputs: shapes, types, and samples."""

    shapes: Sequence[tuple[int, ...]] | None
    dtypes: Sequence[str | None] | None
    calib: Data | None


def _load_demo(weights: Path | None) -> LoadedModel:
    from edgekit.sources.demo.net import CLASSES, INPUT_SHAPE, DigitsNet
    from edgekit.sources.torch_files import load_weights

    module = DigitsNet()
    load_weights(module, weights or Path(__file__).parent / "demo" / "weights.safetensors")
    loaded = _settle(module, DEMO_SOURCE, DEMO_NAME, inspection.random_inputs([INPUT_SHAPE]), task=None)
    preprocessing = Preprocessing(resize=(8, 8), scale=255.0, channel_order="GRAY")
    return _replace_spec(loaded, labels=CLASSES, preprocessing=preprocessing)


def _load_callable(
    spec: str,
    weights: Path | None,
    wanted: _Wanted,
    task: Task | None,
) -> LoadedModel:
    import torch

    entry = resolve(spec)
    with blamed(f"{entry.name}()", entry.code, SourceError):
        module = entry.call()
    if not isinstance(module, torch.nn.Module):
        found = "nothing" if module is None else f"a {type(module).__name__}"
        raise SourceError(f"{spec} returned {found}, not a torch.nn.Module", hint="return the model itself")
    if weights is not None:
        from edgekit.sources.torch_files import load_weights

        load_weights(module, weights)
    scripted = isinstance(module, torch.jit.ScriptModule)
    inputs = _example_inputs(spec, wanted)
    return _settle(
        module,
        spec,
        entry.name,
        inputs,
        task=task,
        calib=wanted.calib,
        code=entry.code,
        trainable=not scripted,
    )


def _load_torch_file(path: Path, wanted: _Wanted, task: Task | None) -> LoadedModel:
    from edgekit.sources.torch_files import load_program, load_torchscript
    from edgekit.store import digest_file

    names: tuple[str, ...] = ()
    stored: tuple[TensorSpec, ...] | None = None
    if path.suffix == ".pt2":
        module, stored, names = load_program(path)
    else:
        module = load_torchscript(path)
    inputs = _example_inputs(str(path), wanted, stored)
    return _settle(
        module,
        str(path),
        path.stem,
        inputs,
        task=task,
        calib=wanted.calib,
        names=names,
        sha256=digest_file(path),
        trainable=False,
    )


def _load_onnx(path: Path, wanted: _Wanted, task: Task | None) -> LoadedModel:
    import torch

    from edgekit.sources.onnx_files import OnnxFile

    file = OnnxFile(path)
    wanted = replace(wanted, dtypes=file.dtypes)
    inputs = _example_inputs(str(path), wanted, file.signature)
    inputs = tuple(t.to(getattr(torch, d)) for t, d in zip(inputs, file.dtypes, strict=False))
    model = file.run([t.numpy() for t in inputs])
    spec = ModelSpec(
        name=path.stem,
        source=str(path),
        sha256=model.sha256,
        inputs=model.inputs,
        outputs=model.outputs,
        task=_settled_task(task, model.inputs, model.outputs, str(path)),
        params=model.params,
        trainable=False,
    )
    return LoadedModel(spec=spec, module=None, onnx_path=path, example_inputs=inputs)


def _example_inputs(
    source: str, wanted: _Wanted, stored: tuple[TensorSpec, ...] | None = None
) -> tuple[torch.Tensor, ...]:
    """Inputs for the first run: calibration samples where they fit the asked shapes, else random.

    ``stored`` is the signature that a file brings with it.
    """
    shapes, calib = wanted.shapes, wanted.calib
    if shapes is None and calib is not None:
        shapes = [(1, *array.shape[1:]) for array in calib.inputs]
    shapes = shapes or (None if stored is None else [t.shape for t in stored])
    if not shapes:
        raise SourceError(
            f"the input shape of {source} is not known",
            hint="give --input-shape, batch first (for example 1,3,224,224), or calibration data (--calib)",
        )
    if any(d < 1 for shape in shapes for d in shape):
        raise SourceError(
            f"input shape {tuple(shapes)} has an empty axis", hint="every dimension is at least 1"
        )
    dtypes: list[str | None] = list(wanted.dtypes or [None] * len(shapes))
    if len(dtypes) != len(shapes):
        dtypes = [None] * len(shapes)
    if stored is not None and len(stored) == len(shapes):
        dtypes = [given or t.dtype for given, t in zip(dtypes, stored, strict=True)]
    if calib is not None and len(calib) and len(calib.inputs) == len(shapes):
        fits = all(a.shape[1:] == tuple(s[1:]) for a, s in zip(calib.inputs, shapes, strict=True))
        batch = shapes[0][0]
        if fits and all(s[0] == batch for s in shapes):
            rows = [i % len(calib) for i in range(batch)]
            return tuple(_sample(a[rows], d) for a, d in zip(calib.inputs, dtypes, strict=True))
        dtypes = [d or a.dtype.name for d, a in zip(dtypes, calib.inputs, strict=True)]
    return inspection.random_inputs(shapes, dtypes)


def _sample(array: Any, dtype: str | None) -> torch.Tensor:
    """Samples as a tensor; integers in the integer type that was asked for."""
    import numpy as np
    import torch

    integers = dtype is not None and array.dtype.kind in "iu" and np.dtype(dtype).kind in "iu"
    return torch.from_numpy(array.astype(dtype) if integers else array.copy())


def _settle(
    module: torch.nn.Module,
    source: str,
    name: str,
    inputs: tuple[torch.Tensor, ...],
    *,
    task: Task | None,
    calib: Data | None = None,
    code: UserCode | None = None,
    names: tuple[str, ...] = (),
    sha256: str | None = None,
    trainable: bool = True,
) -> LoadedModel:
    """Check the weights, run once, and write down what was seen."""
    from edgekit.sources.digest import module_digest
    from edgekit.sources.macs import count_macs

    try:
        module = module.to("cpu").eval()
    except NotImplementedError:  # a torch.export program that the user's callable returned
        from edgekit.sources.exported import ExportedModel

        module, trainable = ExportedModel(module), False
    inspection.check_finite(module, source)
    try:
        outputs = inspection.run_once(module, inputs, source=source, code=code)
    except SourceError as exc:
        _explain_integers(module, inputs, source, calib, exc)
        _explain_channels_last(module, inputs, source, calib, exc)
        raise
    inspection.check_outputs(outputs, source)
    # After the run: a module that forward imports counts among the sources.
    digest = sha256 or module_digest(module, code)
    given = inspection.input_specs(inputs, names or inspection.forward_names(module))
    specs = inspection.output_specs(outputs)
    spec = ModelSpec(
        name=name,
        source=source,
        sha256=digest,
        inputs=given,
        outputs=specs,
        task=_settled_task(task, given, specs, source),
        params=inspection.count_params(module),
        macs=count_macs(module, inputs),
        trainable=trainable,
    )
    return LoadedModel(spec=spec, module=module, onnx_path=None, example_inputs=inputs)


def _explain_integers(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    source: str,
    calib: Data | None,
    error: SourceError,
) -> None:
    """When integer samples do not run but the same values in float do, the dtype is the fault."""
    if calib is None or all(t.is_floating_point() for t in inputs):
        return
    try:
        inspection.run_once(module, [t.float() for t in inputs], source=source)
    except SourceError:
        return
    kinds = ", ".join(str(t.dtype).removeprefix("torch.") for t in inputs)
    raise DataError(
        f"samples of {calib.source} are {kinds} but the model takes float32",
        hint="convert with x.float(), and scale as in training (for images often x / 255)",
    ) from error


def _explain_channels_last(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    source: str,
    calib: Data | None,
    error: SourceError,
) -> None:
    """When calibration samples do not run but their transpose does, the layout is the fault."""
    if calib is None or len(inputs) != 1 or inputs[0].ndim != 4:
        return
    given = tuple(inputs[0].shape[1:])
    if tuple(calib.inputs[0].shape[1:]) != given:
        return
    turned = inputs[0].permute(0, 3, 1, 2).contiguous()
    try:
        inspection.run_once(module, [turned], source=source)
    except SourceError:
        return
    raise DataError(
        f"samples of {calib.source} are {given} but the model takes {tuple(turned.shape[1:])}: "
        "that is channels-last",
        hint="transpose each sample with x.permute(2, 0, 1)",
    ) from error


def _settled_task(
    task: Task | None, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], source: str
) -> Task:
    """What the user said, where the outputs allow it, else the guess."""
    if task == "classification" and (len(outputs) != 1 or len(outputs[0].shape) != 2):
        shapes = ", ".join(str(t.shape) for t in outputs)
        raise SourceError(
            f"{source} cannot be a classifier: its output{'s are' if len(outputs) > 1 else ' is'} {shapes}",
            hint="a classifier has one output (1, classes); leave --task away",
        )
    return task or inspection.guess_task(inputs, outputs)


def _replace_spec(
    loaded: LoadedModel, *, labels: tuple[str, ...], preprocessing: Preprocessing
) -> LoadedModel:
    return replace(loaded, spec=replace(loaded.spec, labels=labels, preprocessing=preprocessing))
