"""What `import edgekit` promises."""

from __future__ import annotations

import subprocess
import sys

import edgekit


def test_every_exported_name_is_there() -> None:
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    assert set(edgekit.__all__) <= set(dir(edgekit))


def test_importing_it_loads_no_framework() -> None:
    code = (
        "import sys, edgekit; print(sorted({'torch', 'numpy', 'pydantic', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
