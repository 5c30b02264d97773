"""Compiled: a ListOps tree of a given number of tokens, drawn from the grammar."""

from typing import no_type_check

import numpy as np

from keelback.compiled.jit import entry_kernel, kernel

MAX_DEPTH = 10
MAX_ARGUMENTS = 10

MIN, MAX, MED, SM, CLOSE = 10, 11, 12, 13, 14


@entry_kernel
@no_type_check
def grow_trees(rng, offsets, chances, tokens):
    """Fill `tokens[offsets[i] : offsets[i + 1]]` with tree i; returns the trees' values."""
    values = np.empty(len(offsets) - 1, np.int64)
    for i in range(len(values)):
        values[i] = _grow_tree(rng, chances, tokens[offsets[i] : offsets[i + 1]])
    return values


@kernel
@no_type_check
def _grow_tree(rng, chances, tokens):
    """Fill `tokens` with a tree of exactly that many tokens; returns its value.

    Written with a stack: level d holds the operator whose arguments lie at depth d + 1, how many
    of them and how many of their tokens are still to come, and the values so far as counts.
    """
    operator = np.zeros(MAX_DEPTH + 1, np.int64)
    arguments_left = np.zeros(MAX_DEPTH + 1, np.int64)
    tokens_left = np.zeros(MAX_DEPTH + 1, np.int64)
    counts = np.zeros((MAX_DEPTH + 1, 10), np.int64)
    arguments_left[0] = 1
    tokens_left[0] = len(tokens)
    level = 0
    written = 0
    while True:
        if arguments_left[level] == 0:
            if level == 0:
                return int(np.argmax(counts[0]))
            tokens[written] = CLOSE
            written += 1
            counts[level - 1, _value(operator[level], counts[level])] += 1
            level -= 1
            continue
        size = _first_size(rng, chances[level + 1], arguments_left[level], tokens_left[level])
        arguments_left[level] -= 1
        tokens_left[level] -= size
        if size == 1:
            digit = rng.integers(0, 10)
            tokens[written] = digit
            counts[level, digit] += 1
        else:
            level += 1
            operator[level] = rng.integers(MIN, SM + 1)
            tokens[written] = operator[level]
            tokens_left[level] = size - 2
            arguments_left[level] = _argument_count(rng, chances[level + 1], size - 2)
            counts[level] = 0
        written += 1


@kernel
@no_type_check
def _first_size(rng, chances, trees, tokens):
    """How many tokens the first of `trees` trees has, given that together they have `tokens`."""
    if trees == 1:
        return tokens
    target = rng.random() * chances[trees, tokens]
    last = 0
    for size in range(1, tokens):
        chance = chances[1, size] * chances[trees - 1, tokens - size]
        if chance > 0.0:
            last = size
            target -= chance
            if target < 0.0:
                break
    return last


@kernel
@no_type_check
def _argument_count(rng, chances, tokens):
    """How many arguments an operator has, given that together they have `tokens` tokens."""
    target = rng.random() * chances[2:, tokens].sum()
    last = 0
    for count in range(2, MAX_ARGUMENTS + 1):
        if chances[count, tokens] > 0.0:
            last = count
            target -= chances[count, tokens]
            if target < 0.0:
                break
    return last


@kernel
@no_type_check
def _value(operator, counts):
    """What an operator makes of arguments, of which `counts[v]` have the value v."""
    total = counts.sum()
    seen = 0
    lower_middle = -1
    weighted = 0
    for value in range(10):
        if counts[value] == 0:
            continue
        if operator == MIN:
            return value
        weighted += value * counts[value]
        seen += counts[value]
        if lower_middle < 0 and seen >= (total + 1) // 2:
            lower_middle = value
        if operator == MED and seen >= total // 2 + 1:
            return (lower_middle + value) // 2
        if operator == MAX and seen == total:
            return value
    return weighted % 10
