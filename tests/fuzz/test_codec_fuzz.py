"""The fuzz target under plain pytest: seeded, bounded, the same on every machine.

``AIMASS_FUZZ_ROUNDS=1000000 pytest tests/fuzz`` looks further; a failure prints seed and round to repeat it with.
"""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.fuzz_codec import fuzz_one, mutated

VECTORS = Path(__file__).parents[2] / "sdk" / "spec" / "vectors"
ROUNDS = int(os.environ.get("AIMASS_FUZZ_ROUNDS", "4000"))


@pytest.fixture(scope="module")
def corpus() -> list[bytes]:
    files = sorted(path for path in VECTORS.glob("*/*") if path.suffix in {".bin", ".json"})
    return [path.read_bytes() for path in files if path.stat().st_size < 4096]


@pytest.mark.timeout(max(120, ROUNDS // 100))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mutated_vectors_are_messages_or_raise_the_one_error(corpus: list[bytes], seed: int) -> None:
    dice = random.Random(seed)
    for turn in range(ROUNDS):
        data = mutated(dice, corpus)
        try:
            fuzz_one(data)
        except Exception as exc:
            raise AssertionError(f"seed {seed}, round {turn}: {data!r}") from exc


def test_the_vectors_themselves_pass_the_target() -> None:
    for path in sorted(VECTORS.glob("*/*")):
        fuzz_one(path.read_bytes())


def test_memory_stays_bounded_while_mutating(corpus: list[bytes]) -> None:
    dice = random.Random(4)
    for _ in range(50):
        fuzz_one(mutated(dice, corpus))
    tracemalloc.start()
    try:
        for _ in range(400):
            fuzz_one(mutated(dice, corpus))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20
