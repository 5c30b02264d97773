r"""Definitions of `proofs/` on the gated model and its first gradient step, transcribed.

The docstring of each function is the Coq definition, word for word; `test_proof_files.py` holds it
against the file. At the start of training every number is rational, so those here are fractions.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

Real = Any
Word = Sequence[int]
Mark = Callable[[int], int]

HALF = Fraction(1, 2)


def remains(g: Sequence[Real], s: int, t: int) -> Real:
    r"""Definition remains (g : nat -> R) (s l : nat) : R :=
    g s * prod (l - s) (fun i => 1 - g (s + S i)%nat).
    """
    left = g[s]
    for i in range(t - s):
        left *= 1 - g[s + 1 + i]
    return left


def memory(g: Sequence[Real], x: Any, b: Any, t: int, i: int, n: int) -> Real:
    r"""Fixpoint memory (g : nat -> R) (x b : nat -> nat -> R) (l i n : nat) : R :=
    match l with
    | O => 0
    | S r => (1 - g r) * memory g x b r i n + g r * (x r i * b r n)
    end.
    """
    if t == 0:
        return 0
    r = t - 1
    return (1 - g[r]) * memory(g, x, b, r, i, n) + g[r] * (x[r][i] * b[r][n])


def recurrent_output(N: int, g: Sequence[Real], x: Any, b: Any, c: Any, t: int, i: int) -> Real:
    r"""Definition recurrent_output (N : nat) (g : nat -> R) (x b c : nat -> nat -> R) (l i : nat) : R :=
    \sum_(n < N) (memory g x b (S l) i n * c l n).
    """  # noqa: E501
    return sum(memory(g, x, b, t + 1, i, n) * c[t][n] for n in range(N))


def quadratic_output(N: int, g: Sequence[Real], x: Any, b: Any, c: Any, t: int, i: int) -> Real:
    r"""Definition quadratic_output (N : nat) (g : nat -> R) (x b c : nat -> nat -> R) (l i : nat) : R :=
    \sum_(s < S l) (remains g s l * dot N (b s) (c l) * x s i).
    """  # noqa: E501
    return sum(
        remains(g, s, t) * sum(b[s][n] * c[t][n] for n in range(N)) * x[s][i] for s in range(t + 1)
    )


def readout(m: int, v: Sequence[Real], W_O: Sequence[Sequence[Real]], k: int) -> Real:
    r"""Definition readout (m : nat) (v : nat -> R) (W_O : nat -> nat -> R) (k : nat) : R :=
    \sum_(i < m) (v i * relu (W_O i k)).
    """
    return sum(v[i] * max(0, W_O[i][k]) for i in range(m))


def same(a: int, b: int) -> int:
    r"""Definition same (a b : nat) : R := if (a =? b)%nat then 1 else 0."""
    return int(a == b)


def score(L: int, a: Sequence[Real], gates: Sequence[Real], features: Word) -> Real:
    r"""Definition score (L : nat) (a w : nat -> R) (features : nat -> nat) : R :=
    \sum_(l < L) (a (features l) * \sum_(s < S l)
      (same (features s) (features l) * remains (fun s => sigmoid (w (features s))) s l)) / INR L.
    """
    of_tokens = [gates[feature] for feature in features]
    return sum(
        a[features[t]]
        * sum(same(features[s], features[t]) * remains(of_tokens, s, t) for s in range(t + 1))
        for t in range(L)
    ) / Fraction(L)


def count_after(k: int, features: Word, s: int, t: int) -> int:
    r"""Definition count_after (k : nat) (features : nat -> nat) (s l : nat) : R :=
    \sum_(i < l - s) same (features (s + S i)%nat) k.
    """
    return sum(same(features[s + 1 + i], k) for i in range(t - s))


def gate_slope(L: int, a: Sequence[Real], features: Word, k: int) -> Real:
    r"""Definition gate_slope (L : nat) (a : nat -> R) (features : nat -> nat) (k : nat) : R :=
    \sum_(l < L) (a (features l) * \sum_(s < S l)
      (same (features s) (features l)
       * ((1 / 2) ^ S (l - s) * ((same (features s) k - count_after k features s l) / 2)))) / INR L.
    """
    return sum(
        a[features[t]]
        * sum(
            HALF ** (t - s + 1)
            * (Fraction(same(features[s], k) - count_after(k, features, s, t), 2))
            for s in range(t + 1)
            if features[s] == features[t]
        )
        for t in range(L)
    ) / Fraction(L)


def exchanged(features: Word) -> tuple[int, ...]:
    r"""Definition exchanged (X : sequence) : sequence := fun s => exchange (X s)."""
    return tuple({0: 1, 1: 0}.get(feature, feature) for feature in features)


def gate_step(L: int, a: Sequence[Real], population: Sequence[Word], k: int) -> Real:
    r"""Definition gate_step (L : nat) (a : nat -> R) (population : list sequence) (k : nat) : R :=
    mean population (fun X => (gate_slope L a X k - gate_slope L a (exchanged X) k) / 2).
    """
    return mean(
        (gate_slope(L, a, X, k) - gate_slope(L, a, exchanged(X), k)) / 2 for X in population
    )


def between(c: int, mark: Mark, X: Word, L: int) -> Fraction:
    r"""Definition between (c : nat) (mark : nat -> R) (X : sequence) (L : nat) : R :=
    \sum_(l < L) \sum_(s < l) (same (X s) c * same (X l) c
      * ((1 / 2) ^ S (l - s) * \sum_(i < l - S s) mark (X (S s + i)%nat))).
    """
    return sum(
        (
            HALF ** (t - s + 1) * sum(mark(X[s + 1 + i]) for i in range(t - s - 1))
            for t in range(L)
            for s in range(t)
            if X[s] == c and X[t] == c
        ),
        Fraction(0),
    )


def number(c: int, X: Word, L: int) -> int:
    r"""Definition number (c : nat) (X : sequence) (L : nat) : R := \sum_(s < L) same (X s) c."""
    return sum(same(X[s], c) for s in range(L))


def readout_slope(L: int, X: Word, k: int) -> Fraction:
    r"""Definition readout_slope (L : nat) (X : sequence) (k : nat) : R :=
    \sum_(l < L) (same (X l) k * \sum_(s < S l) (same (X s) (X l) * (1 / 2) ^ S (l - s))) / INR L.
    """
    found = sum(
        (HALF ** (t - s + 1) for t in range(L) if X[t] == k for s in range(t + 1) if X[s] == X[t]),
        Fraction(0),
    )
    return found / L


def readout_step(L: int, population: Sequence[Word], k: int) -> Real:
    r"""Definition readout_step (L : nat) (population : list sequence) (k : nat) : R :=
    mean population (fun X => (readout_slope L X k - readout_slope L (exchanged X) k) / 2).
    """
    return mean(
        (readout_slope(L, X, k) - readout_slope(L, exchanged(X), k)) / 2 for X in population
    )


def pair_weight(n: int) -> Fraction:
    r"""Definition pair_weight (n : nat) : R :=
    \sum_(l < n) \sum_(s < l) ((1 / 2) ^ S (l - s) * INR (l - S s)).
    """
    pairs = ((t, s) for t in range(n) for s in range(t))
    return sum((HALF ** (t - s + 1) * (t - s - 1) for t, s in pairs), Fraction(0))


def distance_weight(n: int) -> Fraction:
    r"""Definition distance_weight (n : nat) : R :=
    \sum_(l < n) \sum_(s < l) (1 / 2) ^ S (l - s).
    """
    return sum((HALF ** (t - s + 1) for t in range(n) for s in range(t)), Fraction(0))


def majority_population(L: int, d: int, own: int, other: int) -> list[tuple[int, ...]]:
    r"""Definition majority_population (L d own other : nat) : list sequence :=
    map as_sequence (filter (has_numbers own other) (words (seq 0 d) L)).
    """
    words = itertools.product(range(d), repeat=L)
    return [w for w in words if w.count(0) == own and w.count(1) == other]


def apart(near: int, far: int, placement: tuple[int, int]) -> bool:
    r"""Definition apart (near far : nat) (placement : nat * nat) : bool :=
    let (i, j) := placement in
    negb ((i =? j) || (i + near =? j) || (i =? j + far) || (i + near =? j + far))%nat%bool.
    """
    i, j = placement
    return not (i == j or i + near == j or i == j + far or i + near == j + far)


def placements(L: int, near: int, far: int) -> list[tuple[int, int]]:
    r"""Definition placements (L near far : nat) : list (nat * nat) :=
    filter (apart near far) (list_prod (seq 0 (L - near)) (seq 0 (L - far))).
    """
    pairs = itertools.product(range(max(L - near, 0)), range(max(L - far, 0)))
    return [pair for pair in pairs if apart(near, far, pair)]


def pair_sequence(
    near: int, far: int, placement: tuple[int, int], filling: Word
) -> tuple[int, ...]:
    r"""Definition pair_sequence (near far : nat) (placement : nat * nat) (filling : list nat) : sequence :=
    fun s =>
      let (i, j) := placement in
      if ((s =? i) || (s =? i + near))%nat%bool then 0%nat
      else if ((s =? j) || (s =? j + far))%nat%bool then 1%nat
      else nth s filling 2%nat.
    """  # noqa: E501
    i, j = placement
    return tuple(
        0 if s in (i, i + near) else 1 if s in (j, j + far) else feature
        for s, feature in enumerate(filling)
    )


def locality_population(L: int, d: int, near: int, far: int) -> list[tuple[int, ...]]:
    r"""Definition locality_population (L d near far : nat) : list sequence :=
    flat_map (fun placement => map (pair_sequence near far placement) (fillings L d))
             (placements L near far).
    """
    fillings = list(itertools.product(range(2, d), repeat=L))
    return [
        pair_sequence(near, far, placement, filling)
        for placement in placements(L, near, far)
        for filling in fillings
    ]


def irrelevant_inside(n: int, i: int, p: int, q: int) -> int:
    r"""Definition irrelevant_inside (n i p q : nat) : R :=
    \sum_(r < n - 1) indicator (negb ((S i + r =? p) || (S i + r =? q))%nat%bool).
    """
    return sum(i + 1 + r not in (p, q) for r in range(n - 1))


def inside_excess(near: int, far: int, placement: tuple[int, int]) -> Fraction:
    r"""Definition inside_excess (near far : nat) (placement : nat * nat) : R :=
    let (i, j) := placement in
    (1 / 2) ^ near * irrelevant_inside near i j (j + far)
    - (1 / 2) ^ far * irrelevant_inside far j i (i + near).
    """
    i, j = placement
    near_part = HALF**near * irrelevant_inside(near, i, j, j + far)
    return near_part - HALF**far * irrelevant_inside(far, j, i, i + near)


def inside(i: int, n: int, r: int) -> bool:
    r"""Definition inside (i n r : nat) : bool := ((i <? r) && (r <? i + n))%nat%bool."""
    return i < r < i + n


def far_in_near(near: int, far: int, i: int, j: int) -> int:
    r"""Definition far_in_near (near far i j : nat) : R :=
    indicator (inside i near j) + indicator (inside i near (j + far)).
    """
    return inside(i, near, j) + inside(i, near, j + far)


def near_in_far(near: int, far: int, i: int, j: int) -> int:
    r"""Definition near_in_far (near far i j : nat) : R :=
    indicator (inside j far i) + indicator (inside j far (i + near)).
    """
    return inside(j, far, i) + inside(j, far, i + near)


def crossing_excess(near: int, far: int, placement: tuple[int, int]) -> Fraction:
    r"""Definition crossing_excess (near far : nat) (placement : nat * nat) : R :=
    let (i, j) := placement in
    (1 / 2) ^ far * near_in_far near far i j - (1 / 2) ^ near * far_in_near near far i j.
    """
    i, j = placement
    return HALF**far * near_in_far(near, far, i, j) - HALF**near * far_in_near(near, far, i, j)


def mean(values: Iterator[Real]) -> Real:
    r"""Definition mean (l : list A) (f : A -> R) : R := total f l / INR (length l)."""
    found = list(values)
    return sum(found) / Fraction(len(found))
