"""Which test files pytest would collect under a project's own configuration, without importing them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import pytest

class Empty(pytest.File):
    def collect(self):
        return []

class Recorder:
    def pytest_pycollect_makemodule(self, module_path, parent):
        sys.stderr.write(f"{module_path}\\n")
        return Empty.from_parent(parent, path=module_path)

pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider"], plugins=[Recorder()])
"""


def collected_files(root: Path) -> set[Path]:
    """Test files that a bare `pytest` in `root` collects."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    return {Path(line) for line in done.stderr.splitlines() if line.endswith(".py")}


def files_of_tests(root: Path) -> set[Path]:
    """Files named as tests are, benchmarks left out."""
    return {path for path in (root / "tests").rglob("test_*.py") if "benchmarks" not in path.parts}
