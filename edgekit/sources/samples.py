"""Samples from the user's own code: datasets, loaders, lists, iterables and generators.

What a sample may be: ``(x, y)`` with y an integer class index, or ``x`` alone; x a tensor or array
without batch axis, or a tuple or list of them for a model with several inputs. A callable may also
return two stacked arrays ``(X, Y)``. A DataLoader is unbatched.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DataError
from edgekit.sources.arrays import Data, Role, make_data, spread
from edgekit.sources.callables import Entry, blamed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEED = 0
_ENDLESS = 2_000_000


def read_entry(entry: Entry, *, source: str, role: Role, limit: int | None, input_count: int) -> Data:
    """Call the user's callable and read its samples.

    A map-style dataset gives only the chosen indices; an iterable is read to its end and sampled by
    reservoir. Random transforms see fixed seeds; the caller's random state is put back afterwards.
    Raises DataError naming file, line and sample when the code raises.
    """
    with _fixed_randomness():
        with blamed(f"{entry.name}()", entry.code, DataError):
            found = entry.call()
        columns = _Columns(source, input_count)
        with blamed(f"reading {source}", entry.code, DataError):
            if _is_pair_of_arrays(found):
                chosen = spread(len(found[0]), limit)
                x, y = (_array(part, source)[chosen] for part in found)
                return make_data(role, [x], y, source=source)
            found = _dataset_behind(found)
            if _is_map_style(found):
                for index in spread(len(found), limit):
                    with blamed(f"sample {index} of {source}", None, DataError):
                        item = found[index]
                    columns.add(item, index)
            else:
                for index, item in _reservoir(_iterate(found, source), limit, source):
                    columns.add(item, index)
    return columns.data(role)


@dataclass
class _Columns:
    """Collects samples; remembers what the first one looked like and insists on it."""

    source: str
    input_count: int
    rows: list[list[NDArray[Any]]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    unusable_label: str = ""

    def add(self, item: Any, index: int) -> None:
        xs, label, problem = _split(item, self.input_count, f"sample {index} of {self.source}")
        if self.rows:
            first = [a.shape for a in self.rows[0]]
            shapes = [a.shape for a in xs]
            if shapes != first:
                raise DataError(
                    f"sample {index} of {self.source} has shape {_show(shapes)}, "
                    f"the first has {_show(first)}",
                    hint="all samples must have one shape: resize or crop them in the dataset",
                )
        self.rows.append(xs)
        if problem and not self.unusable_label:
            self.unusable_label = problem
        if label is not None:
            self.labels.append(label)

    def data(self, role: Role) -> Data:
        if not self.rows:
            raise DataError(f"{self.source} holds no samples", hint="check the callable that makes the data")
        if self.labels and len(self.labels) != len(self.rows):
            raise DataError(
                f"{len(self.rows) - len(self.labels)} of {len(self.rows)} samples of {self.source} "
                "have no label",
                hint="label all samples or none",
            )
        notes = (
            (f"labels of {self.source} are not used: {self.unusable_label}",) if self.unusable_label else ()
        )
        # One input at a time, freeing as we go: the lists and the stack together would be twice the data.
        inputs = []
        for column in range(len(self.rows[0])):
            inputs.append(np.stack([row[column] for row in self.rows]))
        self.rows.clear()
        labels = np.asarray(self.labels, np.int64) if self.labels else None
        return make_data(role, inputs, labels, source=self.source, notes=notes)


def _split(item: Any, input_count: int, where: str) -> tuple[list[NDArray[Any]], int | None, str]:
    """Inputs, class index or None, and why a label was not usable."""
    if isinstance(item, dict):
        raise DataError(f"{where} is a dict", hint="give (x, y) or x; wrap the dataset to do so")
    if not isinstance(item, (tuple, list)):
        return [_array(item, where)], None, ""
    if len(item) == 2 and (input_count != 2 or isinstance(item[0], (tuple, list)) or _is_scalar(item[1])):
        x, y = item
        parts = x if isinstance(x, (tuple, list)) else (x,)
        label, problem = _label(y)
        return [_array(part, where) for part in parts], label, problem
    if len(item) == input_count + 1 and _is_scalar(item[-1]):
        label, problem = _label(item[-1])
        return [_array(part, where) for part in item[:-1]], label, problem
    if len(item) == input_count:
        return [_array(part, where) for part in item], None, ""
    raise DataError(
        f"{where} is a {type(item).__name__} of {len(item)}, but the model takes {input_count} input"
        f"{'s' if input_count > 1 else ''}",
        hint="give (x, y) with an integer y, or x alone; several inputs as a tuple x",
    )


def _label(y: Any) -> tuple[int | None, str]:
    if y is None:
        return None, ""
    value = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if value.size == 1 and value.dtype.kind in "iub":
        return int(value.reshape(())), ""
    return None, f"they are {value.dtype} of shape {value.shape}, not one integer class index"


def _is_scalar(value: Any) -> bool:
    return value is None or (np.ndim(value) == 0 if not hasattr(value, "ndim") else value.ndim == 0)


def _array(value: Any, where: str) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
        return np.asarray(value.numpy())
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind not in "fiub":
        raise DataError(f"{where} is a {type(value).__name__} of dtype {array.dtype}, not numbers")
    return array


def _is_pair_of_arrays(found: Any) -> bool:
    """Two stacked arrays (X, Y): Y one integer for each row of X."""
    if not (isinstance(found, tuple) and len(found) == 2 and all(hasattr(p, "shape") for p in found)):
        return False
    x, y = found
    integer = not ("float" in str(y.dtype) or "complex" in str(y.dtype))
    return len(x.shape) > 1 and len(y.shape) == 1 and integer and x.shape[0] == y.shape[0]


def _is_map_style(found: Any) -> bool:
    return hasattr(found, "__getitem__") and hasattr(found, "__len__") and not isinstance(found, dict)


def _dataset_behind(found: Any) -> Any:
    """The dataset of a plain DataLoader: read in order, no batches, only the samples that are needed.

    A loader with its own collate function or sampler does something that must not be skipped, and is
    iterated and unbatched.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(found, torch.utils.data.DataLoader):
        return found
    plain_samplers = (torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler)
    plain = found.collate_fn is torch.utils.data.default_collate and type(found.sampler) in plain_samplers
    if plain and _is_map_style(found.dataset):
        return found.dataset
    return _Unbatched(found) if found.batch_size is not None or found.batch_sampler is not None else found


class _Unbatched:
    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            parts = batch if isinstance(batch, (tuple, list)) else (batch,)
            for row in range(len(parts[0][0] if isinstance(parts[0], (tuple, list)) else parts[0])):
                values = [tuple(p[row] for p in x) if isinstance(x, (tuple, list)) else x[row] for x in parts]
                yield tuple(values) if isinstance(batch, (tuple, list)) else values[0]


def _iterate(found: Any, source: str) -> Iterator[Any]:
    try:
        return iter(found)
    except TypeError:
        raise DataError(
            f"{source} returned {'nothing' if found is None else f'a {type(found).__name__}'}, not a dataset",
            hint="return a Dataset, a list, or a generator of (x, y)",
        ) from None


def _reservoir(items: Iterator[Any], limit: int | None, source: str) -> Sequence[tuple[int, Any]]:
    """All items, or ``limit`` of them drawn evenly (Vitter 1985, algorithm R), in their order."""
    rng = random.Random(_SEED)
    kept: list[tuple[int, Any]] = []
    for index, item in enumerate(items):
        if index >= _ENDLESS:
            raise DataError(
                f"{source} gave {_ENDLESS} samples and does not end", hint="make the iterable finite"
            )
        if limit is None or len(kept) < limit:
            kept.append((index, item))
        else:
            slot = int(rng.random() * (index + 1))
            if slot < limit:
                kept[slot] = (index, item)
    return sorted(kept, key=lambda pair: pair[0])


class _fixed_randomness:
    """Seeds python, numpy and (when loaded) torch inside; puts their states back at the end."""

    def __enter__(self) -> None:
        self._restore: list[Callable[[], Any]] = []
        python, legacy = random.getstate(), np.random.get_state()
        self._restore += [lambda: random.setstate(python), lambda: np.random.set_state(legacy)]
        random.seed(_SEED)
        np.random.seed(_SEED)
        torch = sys.modules.get("torch")
        if torch is not None:
            state = torch.get_rng_state()
            self._restore.append(lambda: torch.set_rng_state(state))
            torch.manual_seed(_SEED)

    def __exit__(self, *_: object) -> None:
        for restore in self._restore:
            restore()


def _show(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, itertools.islice(shapes, 4)))
