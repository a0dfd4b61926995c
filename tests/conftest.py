"""What all tests share: where things are, and a folder short enough for Unix sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder with a short path: a Unix socket's path must fit into 107 bytes, which tmp_path may break."""
    folder = Path(tempfile.mkdtemp(prefix="aim-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
