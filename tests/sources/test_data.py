"""load_data: every source, subsets, and data that cannot be used."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import DataError
from edgekit.sources.arrays import make_data, spread
from edgekit.sources.data import load_data
from edgekit.types import Preprocessing

MAP_STYLE = """
import numpy as np
asked = []
class Set:
    def __len__(self):
        return 100
    def __getitem__(self, i):
        if i >= 100:
            raise IndexError
        asked.append(i)
        return np.full((2, 3), i, np.float64), i % 5
def make():
    return Set()
"""


def _entry(tmp_path: Path, text: str) -> str:
    (tmp_path / "data.py").write_text(text)
    return f"{tmp_path / 'data.py'}:make"


def test_a_map_style_dataset_is_read_whole_and_only_where_asked(tmp_path: Path) -> None:
    from edgekit.sources.callables import resolve

    spec = _entry(tmp_path, MAP_STYLE)
    whole = load_data(spec, role="eval")
    assert whole.inputs[0].shape == (100, 2, 3) and whole.inputs[0].dtype == np.float32
    assert whole.labels is not None and whole.labels.dtype == np.int64
    assert list(whole.labels[:6]) == [0, 1, 2, 3, 4, 0]
    asked = resolve(spec).code.module.asked
    asked.clear()
    part = load_data(spec, role="calib", limit=10)
    assert len(part) == 10 == len(asked)
    assert [i // 10 for i in asked] == list(range(10))
    assert load_data(spec, role="calib", limit=10).sha256 == part.sha256 != whole.sha256
    assert set(part.ids) <= set(whole.ids)


GENERATORS = {
    "pairs": ("for i in range(6):\n        yield np.zeros(3) + i, i", (6, 3), [0, 1, 2, 3, 4, 5]),
    "x alone": ("for i in range(6):\n        yield np.zeros(3) + i", (6, 3), None),
    "torch pairs": (
        "for i in range(6):\n        yield torch.zeros(3) + i, torch.tensor(i)",
        (6, 3),
        [0, 1, 2, 3, 4, 5],
    ),
    "list": ("return [(np.zeros(3), 1), (np.ones(3), 0)]", (2, 3), [1, 0]),
    "arrays": ("return np.zeros((4, 3)), np.array([3, 2, 1, 0])", (4, 3), [3, 2, 1, 0]),
    "tensor dataset": (
        "return torch.utils.data.TensorDataset(torch.zeros(4, 3), torch.arange(4))",
        (4, 3),
        [0, 1, 2, 3],
    ),
    "loader": (
        "d = torch.utils.data.TensorDataset(torch.zeros(5, 3), torch.arange(5))\n"
        "    return torch.utils.data.DataLoader(d, batch_size=2, shuffle=True)",
        (5, 3),
        [0, 1, 2, 3, 4],
    ),
    "loader with its own collate": (
        "d = torch.utils.data.TensorDataset(torch.zeros(5, 3), torch.arange(5))\n"
        "    c = lambda b: (torch.stack([x + 1 for x, _ in b]), torch.tensor([y for _, y in b]))\n"
        "    return torch.utils.data.DataLoader(d, batch_size=2, collate_fn=c)",
        (5, 3),
        [0, 1, 2, 3, 4],
    ),
}


@pytest.mark.parametrize("form", GENERATORS)
def test_forms_of_user_data(tmp_path: Path, form: str) -> None:
    body, shape, labels = GENERATORS[form]
    if "torch" in body:
        pytest.importorskip("torch")
    head = "import numpy as np\n" + ("import torch\nimport torch.utils.data\n" if "torch" in body else "")
    data = load_data(_entry(tmp_path, f"{head}def make():\n    {body}\n"), role="train")
    assert data.inputs[0].shape == shape
    assert (data.labels is None and labels is None) or list(data.labels) == labels
    if "own collate" in form:
        assert float(data.inputs[0].min()) == 1.0, "the user's collate function was skipped"


def test_several_inputs(tmp_path: Path) -> None:
    text = "import numpy as np\ndef make():\n    return [((np.zeros(3), np.ones((2, 2))), 1)] * 4\n"
    data = load_data(_entry(tmp_path, text), role="eval", input_count=2)
    assert [a.shape for a in data.inputs] == [(4, 3), (4, 2, 2)]
    bare = "import numpy as np\ndef make():\n    return [(np.zeros(3), np.ones((2, 2)))] * 4\n"
    data = load_data(_entry(tmp_path, bare), role="calib", input_count=2)
    assert len(data.inputs) == 2 and data.labels is None


def test_an_iterable_is_sampled_evenly_and_reproducibly(tmp_path: Path) -> None:
    text = "import numpy as np\ndef make():\n    for i in range(1000):\n        yield np.array([float(i)])\n"
    spec = _entry(tmp_path, text)
    first = load_data(spec, role="calib", limit=50).inputs[0][:, 0]
    assert np.array_equal(first, load_data(spec, role="calib", limit=50).inputs[0][:, 0])
    assert len(first) == 50 and (np.diff(first) > 0).all()
    assert 350 < first.mean() < 650


def test_random_transforms_are_seeded_and_the_callers_state_is_kept(tmp_path: Path) -> None:
    text = (
        "import random, numpy as np\ndef make():\n"
        "    return [np.array([random.random(), np.random.rand()]) for _ in range(3)]\n"
    )
    spec = _entry(tmp_path, text)
    random.seed(5)
    np.random.seed(5)
    expected = (random.random(), np.random.rand())
    random.seed(5)
    np.random.seed(5)
    first, second = load_data(spec, role="train"), load_data(spec, role="train")
    assert first.sha256 == second.sha256
    assert (random.random(), np.random.rand()) == expected


def test_labels_that_are_no_class_index_are_dropped_and_said(tmp_path: Path) -> None:
    text = "import numpy as np\ndef make():\n    return [(np.zeros(3), np.zeros((2, 2)))] * 3\n"
    data = load_data(_entry(tmp_path, text), role="train")
    assert data.labels is None
    assert "labels of" in data.notes[0] and "(2, 2)" in data.notes[0]


DATA_FAULTS = {
    "raises": ("raise OSError('disk')", r"make\(\) failed at .*data.py:3 \(in make\): OSError: disk"),
    "generator raises": (
        "yield np.zeros(2)\n    raise ValueError('bad')",
        r"reading .* failed at .*data.py:4",
    ),
    "nothing": ("return None", "returned nothing, not a dataset"),
    "empty list": ("return []", "holds no samples"),
    "empty generator": ("yield from ()", "holds no samples"),
    "shapes differ": (
        "return [np.zeros(2), np.zeros(3)]",
        r"sample 1 of .* has shape \(3,\).*the first has \(2,\)",
    ),
    "dict": ("return [{'x': np.zeros(2)}]", "sample 0 of .* is a dict"),
    "text": ("return ['abc']", "of dtype <U3, not numbers"),
    "objects": ("return [np.array([{}])]", "dtype object"),
    "triple": ("return [(np.zeros(2), np.zeros(2), np.zeros(2))]", "tuple of 3, but the model takes 1 input"),
    "half labelled": ("return [(np.zeros(2), 1), (np.ones(2), None)]", "1 of 2 samples of .* have no label"),
    "item raises": (
        "class D:\n        def __len__(self): return 3\n        def __getitem__(self, i): return [][i]\n"
        "    return D()",
        r"sample 0 of .* failed at .*data.py:5 \(in __getitem__\): IndexError",
    ),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_faulty_user_data_ends_in_one_sentence(tmp_path: Path, fault: str) -> None:
    body, message = DATA_FAULTS[fault]
    with pytest.raises(DataError, match=message) as caught:
        load_data(_entry(tmp_path, f"import numpy as np\ndef make():\n    {body}\n"), role="calib")
    assert "\n" not in str(caught.value)


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.arange(24.0).reshape(6, 4), y=np.arange(6))
    data = load_data(str(path), role="eval", limit=3)
    assert data.inputs[0].shape == (3, 4) and data.labels is not None and len(data.labels) == 3
    assert np.array_equal(data.inputs[0][:, 0], data.labels * 4)
    np.savez(path, x0=np.zeros((2, 3)), x1=np.ones((2, 5), np.int64))
    two = load_data(str(path), role="calib")
    assert [a.dtype.name for a in two.inputs] == ["float32", "int64"]


def test_npz_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="object arrays, which are pickles"):
        load_data(str(path), role="calib")
    np.savez(path, images=np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"no array 'x', only \['images'\]"):
        load_data(str(path), role="calib")
    np.savez(path, x=np.zeros((2, 3)), y=np.array([0.5, 1.5]))
    with pytest.raises(DataError, match="float64, not integer class indices"):
        load_data(str(path), role="calib")
    np.savez(path, x=np.zeros((2, 3)), y=np.array([1]))
    with pytest.raises(DataError, match=r"y of .* has 1 rows, x has 2"):
        load_data(str(path), role="calib")
    path.write_bytes(b"PK junk")
    with pytest.raises(DataError, match=r"not an .npz archive"):
        load_data(str(path), role="calib")


def test_an_image_folder_is_scaled_cropped_and_normalised_as_documented(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name, value in (("cats", 51), ("dogs", 204)):
        (tmp_path / name).mkdir()
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, 8:24] = (value, 0, 255)  # the centre that a square crop keeps
        image.fromarray(pixels).save(tmp_path / name / "a.png")
    (tmp_path / "dogs" / "notes.txt").write_text("not an image")
    data = load_data(str(tmp_path), role="eval", image_size=(16, 16))
    assert data.classes == ("cats", "dogs") and list(data.labels) == [0, 1]
    assert data.inputs[0].shape == (2, 3, 16, 16)
    assert np.allclose(data.inputs[0][0, :, 8, 8], [0.2, 0.0, 1.0])
    assert np.allclose(data.inputs[0].min(axis=(2, 3)), data.inputs[0].max(axis=(2, 3)))
    assert data.preprocessing.resize == (16, 16) and data.preprocessing.scale == 255.0
    how = Preprocessing(resize=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.5), channel_order="BGR")
    normal = load_data(str(tmp_path), role="eval", preprocessing=how).inputs[0]
    assert np.allclose(normal[1, :, 4, 4], [2.0, -2.0, 0.6])
    grey = load_data(
        str(tmp_path), role="eval", preprocessing=Preprocessing(channel_order="GRAY"), image_size=(4, 4)
    )
    assert grey.inputs[0].shape == (2, 1, 4, 4)


def test_image_folders_that_cannot_be_used(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    with pytest.raises(DataError, match="no images in class folders"):
        load_data(str(tmp_path), role="calib", image_size=(4, 4))
    with pytest.raises(DataError, match=r"size .* is not known"):
        load_data(str(tmp_path), role="calib")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken.png cannot be read as an image"):
        load_data(str(tmp_path), role="calib", image_size=(4, 4))


def test_digits_are_scikit_learns_and_the_parts_are_disjoint() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    parts = {role: load_data("digits", role=role) for role in ("calib", "eval", "train")}
    assert {role: len(d) for role, d in parts.items()} == {"calib": 198, "eval": 395, "train": 1204}
    ids = [i for d in parts.values() for i in d.ids]
    bunch = load_digits()
    everything = make_data("eval", [(bunch.images / 16.0)[:, None]], bunch.target, source="sklearn")
    assert sorted(ids) == sorted(everything.ids)
    assert len(set(ids)) == len(ids)
    by_id = dict(zip(everything.ids, everything.labels, strict=True))
    for data in parts.values():
        assert all(by_id[i] == y for i, y in zip(data.ids, data.labels, strict=True))
        assert set(data.labels) == set(range(10))
        assert data.inputs[0].min() >= 0.0 and data.inputs[0].max() == 1.0
        assert data.preprocessing.scale == 255  # a white pixel of a picture is as bright as any of these


def test_sources_that_name_no_data(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1")
    for spec, message in ((str(tmp_path / "none"), "no such data"), (str(tmp_path / "x.csv"), "cannot tell")):
        with pytest.raises(DataError, match=message):
            load_data(spec, role="calib")
    with pytest.raises(DataError, match="cannot take 0 samples"):
        load_data("digits", role="calib", limit=0)


@pytest.mark.parametrize(("n", "limit"), [(10, 3), (10, 10), (10, 50), (7, 1), (1000, 333)])
def test_spread_covers_the_range(n: int, limit: int) -> None:
    chosen = spread(n, limit)
    assert len(chosen) == min(n, limit) == len(set(chosen))
    assert chosen == sorted(chosen) == spread(n, limit)
    assert chosen[0] >= 0 and chosen[-1] < n
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() <= 2 * (n // min(n, limit) + 1)


def test_take_keeps_samples_labels_and_ids_together() -> None:
    data = make_data("train", [np.arange(5.0)[:, None]], np.arange(5), source="s")
    part = data.take([3, 1], role="calib")
    assert part.role == "calib" and list(part.labels) == [3, 1]
    assert part.ids == (data.ids[3], data.ids[1]) and part.sha256 != data.sha256
    assert data.summary()["inputs"] == [{"shape": [1], "dtype": "float32", "min": 0.0, "max": 4.0}]
