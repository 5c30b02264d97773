"""An adaptive arithmetic coder for whole numbers: the code of quantised weights.

Integer arithmetic only, so that the same file gives the same numbers on every machine.
"""

from typing import no_type_check

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32, Int64

from keelback.compiled.jit import entry_kernel, kernel
from keelback.errors import InputError

_INCREMENT = 24
_LARGEST_TOTAL = 1 << 16
LARGEST_ALPHABET = 1 << 12
"""Frequencies must stay below a quarter of the coder's range."""

_TOP, _HALF, _QUARTER = (1 << 32) - 1, 1 << 31, 1 << 30


def encode(
    symbols: Int32[np.ndarray, " n"],
    lengths: Int64[np.ndarray, " runs"],
    alphabets: Int64[np.ndarray, " runs"],
) -> bytes:
    """Code runs of symbols, each run with its own alphabet and its own adaptive frequencies.

    Every symbol of a run starts with one count and gains 24 for each time that it was coded; counts
    are halved when they grow beyond 2^16. The code's length is the sum of the logarithms of the
    frequencies, plus a few bits.

    Args:
        symbols: the runs one after the other; each symbol in 0 .. alphabet - 1.
        lengths: how many symbols each run has.
        alphabets: the size of each run's alphabet, at most `LARGEST_ALPHABET`.

    Raises:
        InputError: lengths that do not add up, or a symbol or an alphabet outside its range.

    Source: Witten, Neal and Cleary, Communications of the ACM 1987.
    """
    _check(len(symbols), lengths, alphabets)
    start = 0
    for length, alphabet in zip(lengths, alphabets, strict=True):
        run = symbols[start : start + length]
        if len(run) and not 0 <= run.min() <= run.max() < alphabet:
            raise InputError("a symbol lies outside its alphabet")
        start += length
    bits = np.zeros(64 + 40 * len(symbols), dtype=np.uint8)
    used = int(_encode(symbols, lengths, alphabets, bits))
    return np.packbits(bits[:used]).tobytes()


def decode(
    code: bytes, lengths: Int64[np.ndarray, " runs"], alphabets: Int64[np.ndarray, " runs"]
) -> Int32[np.ndarray, " n"]:
    """The symbols that `encode` coded with these lengths and alphabets.

    Raises:
        InputError: lengths or an alphabet outside their range, or a code that is cut off.
    """
    count = int(lengths.sum()) if len(lengths) else 0
    _check(count, lengths, alphabets)
    bits = np.unpackbits(np.frombuffer(code, dtype=np.uint8))
    symbols = np.zeros(count, dtype=np.int32)
    if _decode(bits, lengths, alphabets, symbols) > len(bits) + 32:
        raise InputError("the code of the weights is cut off")
    return symbols


def _check(count: int, lengths: npt.NDArray[np.int64], alphabets: npt.NDArray[np.int64]) -> None:
    if len(lengths) != len(alphabets) or int(lengths.sum()) != count or (lengths < 0).any():
        raise InputError("the lengths of the runs do not add up to the number of symbols")
    if len(alphabets) and not 1 <= alphabets.min() <= alphabets.max() <= LARGEST_ALPHABET:
        raise InputError(f"an alphabet must have 1 to {LARGEST_ALPHABET} symbols")


@kernel
@no_type_check
def _learn(counts, alphabet, symbol, total):
    counts[symbol] += _INCREMENT
    total += _INCREMENT
    if total > _LARGEST_TOTAL:
        total = 0
        for i in range(alphabet):
            counts[i] = (counts[i] + 1) // 2
            total += counts[i]
    return total


@kernel
@no_type_check
def _put(bits, used, bit, pending):
    bits[used] = bit
    used += 1
    for _ in range(pending):
        bits[used] = 1 - bit
        used += 1
    return used


@entry_kernel
@no_type_check
def _encode(symbols, lengths, alphabets, bits):
    low, high, pending, used, at = np.int64(0), np.int64(_TOP), 0, 0, 0
    counts = np.zeros(LARGEST_ALPHABET, dtype=np.int64)
    for run in range(len(lengths)):
        alphabet = alphabets[run]
        counts[:alphabet] = 1
        total = alphabet
        for _ in range(lengths[run]):
            symbol = symbols[at]
            at += 1
            below = np.int64(0)
            for i in range(symbol):
                below += counts[i]
            width = high - low + 1
            high = low + width * (below + counts[symbol]) // total - 1
            low = low + width * below // total
            while True:
                if high < _HALF:
                    used, pending = _put(bits, used, 0, pending), 0
                elif low >= _HALF:
                    used, pending = _put(bits, used, 1, pending), 0
                    low -= _HALF
                    high -= _HALF
                elif low >= _QUARTER and high < 3 * _QUARTER:
                    pending += 1
                    low -= _QUARTER
                    high -= _QUARTER
                else:
                    break
                low = 2 * low
                high = 2 * high + 1
            total = _learn(counts, alphabet, symbol, total)
    return _put(bits, used, 0 if low < _QUARTER else 1, pending + 1)


@entry_kernel
@no_type_check
def _decode(bits, lengths, alphabets, symbols):
    """Fills in the symbols; gives how many bits were looked at, beyond the end as zeros."""
    low, high, value, used, at = np.int64(0), np.int64(_TOP), np.int64(0), 0, 0
    for _ in range(32):
        value = 2 * value + (bits[used] if used < len(bits) else 0)
        used += 1
    counts = np.zeros(LARGEST_ALPHABET, dtype=np.int64)
    for run in range(len(lengths)):
        alphabet = alphabets[run]
        counts[:alphabet] = 1
        total = alphabet
        for _ in range(lengths[run]):
            width = high - low + 1
            target = ((value - low + 1) * total - 1) // width
            symbol, below = 0, np.int64(0)
            while below + counts[symbol] <= target:
                below += counts[symbol]
                symbol += 1
            symbols[at] = symbol
            at += 1
            high = low + width * (below + counts[symbol]) // total - 1
            low = low + width * below // total
            while True:
                if high < _HALF:
                    pass
                elif low >= _HALF:
                    low -= _HALF
                    high -= _HALF
                    value -= _HALF
                elif low >= _QUARTER and high < 3 * _QUARTER:
                    low -= _QUARTER
                    high -= _QUARTER
                    value -= _QUARTER
                else:
                    break
                low = 2 * low
                high = 2 * high + 1
                value = 2 * value + (bits[used] if used < len(bits) else 0)
                used += 1
            total = _learn(counts, alphabet, symbol, total)
    return used
