"""ListOps trees, drawn from Long Range Arena's grammar with their number of tokens given.

A node at depth 10 is a digit; above that it is a digit with probability 3/4, and otherwise an
operator over 2 to 10 nodes one level down. Rejecting the trees of unwanted length, as Long Range
Arena does (Tay et al. 2021, arXiv 2011.04006; the task is from Nangia and Bowman 2018,
arXiv 1804.06028), takes the longer the rarer they are. Here a length is drawn from its
distribution under the grammar, restricted to the wanted range, and a tree from its distribution
given the length: the law is the same and no draw is lost.
"""

import functools
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from keelback.data._listops_kernels import MAX_ARGUMENTS, MAX_DEPTH, grow_trees
from keelback.data.ragged import Ragged
from keelback.errors import InputError

TOKENS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
"""Tokens by id; the id after the last one is padding."""

DIGIT_PROBABILITY = 0.75
_CHUNK = 256
_LEAST_YIELD = 0.01


def generate_trees(
    count: int, min_length: int, max_length: int, seed: int
) -> tuple[Ragged, npt.NDArray[np.int64]]:
    """Draw `count` different trees with `min_length < number of tokens < max_length`.

    Args:
        count: how many trees.
        min_length: exclusive lower bound on the tokens; an operator and its bracket count two.
        max_length: exclusive upper bound.
        seed: the same seed gives the same trees, and a larger `count` the same ones first.

    Returns:
        Token ids (without padding) and the value of each tree.

    Raises:
        InputError: there are not enough trees of such lengths.
    """
    seen: set[bytes] = set()
    trees: list[npt.NDArray[np.uint8]] = []
    values: list[int] = []
    for drawn, (tree, value) in enumerate(_stream(min_length, max_length, seed)):
        if len(trees) == count:
            break
        if drawn >= count / _LEAST_YIELD:
            raise InputError(
                f"listops: found {len(trees)} different trees with more than {min_length} and "
                f"fewer than {max_length} tokens, {count} were asked for; ask for fewer or longer"
            )
        digest = hashlib.blake2b(tree.tobytes(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            trees.append(tree)
            values.append(value)
    offsets = np.cumsum([0, *map(len, trees)], dtype=np.int64)
    return Ragged(np.concatenate(trees), offsets), np.array(values, dtype=np.int64)


def length_distribution(max_length: int) -> npt.NDArray[np.float64]:
    """The probability that a tree of the grammar has n tokens, for n = 0, ..., `max_length - 1`."""
    return _forest_chances(max_length)[1, 1]


def _stream(
    min_length: int, max_length: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """Trees without end, in an order that does not depend on the number of threads."""
    if max_length < 2 or min_length > max_length - 2:
        raise InputError(
            f"listops: no tree has more than {min_length} and fewer than {max_length} tokens"
        )
    chances = _forest_chances(max_length)
    wanted = chances[1, 1].copy()
    wanted[: max(min_length, 0) + 1] = 0.0
    if not wanted.sum() > 0.0:
        raise InputError(
            f"listops: the grammar has no tree with more than {min_length} and fewer than "
            f"{max_length} tokens"
        )
    shares = wanted / wanted.sum()
    threads = os.cpu_count() or 1

    def chunk(number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[int]]:
        rng = np.random.default_rng([seed, number])
        lengths = rng.choice(max_length, size=_CHUNK, p=shares)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.empty(offsets[-1], dtype=np.uint8)
        return tokens, offsets, grow_trees(rng, offsets, chances, tokens).tolist()

    with ThreadPoolExecutor(threads) as pool:
        first = 0
        while True:
            for tokens, offsets, values in pool.map(chunk, range(first, first + threads)):
                for i, value in enumerate(values):
                    yield tokens[offsets[i] : offsets[i + 1]], value
            first += threads


@functools.lru_cache(maxsize=8)
def _forest_chances(max_length: int) -> npt.NDArray[np.float64]:
    """`[d, k, n]`: the probability that k trees whose roots lie at depth d have n tokens in all."""
    chances = np.zeros((MAX_DEPTH + 1, MAX_ARGUMENTS + 1, max(max_length, 2)))
    chances[:, 0, 0] = 1.0
    for depth in range(MAX_DEPTH, 0, -1):
        one = chances[depth, 1]
        if depth == MAX_DEPTH:
            one[1] = 1.0
        else:
            arguments = chances[depth + 1, 2:].mean(axis=0)
            one[2:] = (1.0 - DIGIT_PROBABILITY) * arguments[:-2]
            one[1] = DIGIT_PROBABILITY
        for k in range(2, MAX_ARGUMENTS + 1):
            chances[depth, k] = np.convolve(chances[depth, k - 1], one)[: one.size]
    chances.flags.writeable = False
    return chances
