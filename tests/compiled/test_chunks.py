"""What is worked on at a time, of sequences that are cut into chunks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keelback.compiled.chunks import parts

COUNTS = st.integers(1, 40)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@given(rows=COUNTS, chunks=COUNTS, numbers=st.integers(1, 5000), at_a_time=st.integers(1, 5000))
def test_every_chunk_is_worked_on_once(
    device: str, rows: int, chunks: int, numbers: int, at_a_time: int
) -> None:
    seen = torch.zeros(rows, chunks, dtype=torch.long)
    for some, spans in parts(rows, chunks, numbers, at_a_time, torch.device(device)):
        for span in spans:
            seen[some, span] += 1
    assert bool((seen == 1).all())


def test_a_gpu_works_on_more_at_a_time() -> None:
    """There every operation is a launch: 512 steps of 8 heads take the fewest."""
    sizes = (8, 32, 16 * 16 * 128, 1 << 18)
    counts = {
        device: sum(len(spans) for _, spans in parts(*sizes, torch.device(device)))
        for device in ("cpu", "cuda")
    }
    assert counts == {"cpu": 32, "cuda": 1}
