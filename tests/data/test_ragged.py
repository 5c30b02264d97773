"""Ragged sequences against lists of lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelback.data import Ragged, get_task
from keelback.errors import InputError

ROWS = st.lists(st.lists(st.integers(1, 99), max_size=9), max_size=6)


def as_lists(ragged):
    return [ragged[i].tolist() for i in range(len(ragged))]


@given(ROWS)
def test_holds_what_it_was_given(rows):
    ragged = Ragged.from_sequences(rows)
    assert as_lists(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]


@given(ROWS, st.data())
def test_take(rows, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    taken = Ragged.from_sequences(rows).take(np.array(chosen, dtype=np.int64))
    assert as_lists(taken) == [rows[i] for i in chosen]


@given(ROWS, st.integers(1, 10))
def test_truncation_keeps_the_last_token(rows, length):
    expected = [row if len(row) <= length else [*row[: length - 1], row[-1]] for row in rows]
    original = Ragged.from_sequences(rows)
    assert as_lists(original.truncated(length)) == expected
    assert as_lists(original) == rows


@given(ROWS, st.sampled_from(["right", "left"]), st.integers(0, 3), st.data())
def test_padding(rows, side, room, data):
    first = data.draw(st.integers(0, len(rows)))
    longest = max(map(len, rows[:first]), default=0)
    table = Ragged.from_sequences(rows).first(first).padded(0, longest + room, side)
    assert table.dtype == np.int32
    zeros = [[0] * (longest + room - len(row)) for row in rows]
    expected = [
        row + fill if side == "right" else fill + row
        for row, fill in zip(rows[:first], zeros[:first], strict=True)
    ]
    assert table.tolist() == expected


def test_too_long_a_sequence_is_named():
    ragged = Ragged.from_sequences([[1], [1, 2, 3], [1, 2]])
    with pytest.raises(InputError, match="sequence 2 has 3 tokens, more than the length asked"):
        ragged.padded(0, 2)


def test_tasks_collate():
    listops = get_task("listops", seq_len=10)
    assert listops.collate([[10, 1, 2, 14], [7]]).tolist() == [[10, 1, 2, 14], [7, 15, 15, 15]]
    assert listops.collate([[7]], length=3, side="left").tolist() == [[15, 15, 7]]
    majority = get_task("majority", seq_len=2)
    assert majority.collate([[0, 1], [1, 1]]).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(InputError, match="majority has no padding id"):
        majority.collate([[0], [1, 1]])
