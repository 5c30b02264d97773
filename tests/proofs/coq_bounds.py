r"""Definitions of `proofs/` on sums over steps, bounds and inversions, transcribed for mpmath.

The docstring of each function is the Coq definition, word for word; `test_proof_files.py` holds it
against the file. Real numbers are mpmath's, at the precision in force; counts are whole numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from mpmath import mp, mpf

Real = Any
Steps = Sequence[Any]
Level = tuple[Any, Any]


def total(n: int, f: Callable[[int], Real]) -> Real:
    r"""Fixpoint sum (n : nat) (f : nat -> R) : R :=
    match n with
    | O => 0
    | S m => sum m f + f m
    end.
    """
    return mp.fsum(f(k) for k in range(n))


def tau(T: int, delta: Steps, t: int) -> Real:
    r"""Definition tau (T : nat) (delta : nat -> R) (t : nat) : R :=
    \sum_(r < T) (if (t <? r)%nat then delta r else 0).
    """
    return total(T, lambda r: delta[r] if t < r else mpf(0))


def output_sum(s_A: Real, D: Real, T: int) -> Real:
    r"""Definition output_sum (s_A D : R) (T : nat) : R :=
    D * \sum_(k < T) exp (s_A * D * INR k).
    """
    return D * total(T, lambda k: mp.exp(s_A * D * k))


def decaying_sum(s_A: Real, D: Real, T: int) -> Real:
    r"""Definition decaying_sum (s_A D : R) (T : nat) : R :=
    if Rlt_dec s_A 0
    then Rmin (INR (T - 1) * D) (3 / - s_A + D) / exp 1
    else INR (T - 1) * D / exp 1.
    """
    return min((T - 1) * D, 3 / -s_A + D) / mp.e if s_A < 0 else (T - 1) * D / mp.e


def absolute_sum(s_A: Real, D: Real, T: int) -> Real:
    r"""Definition absolute_sum (s_A D : R) (T : nat) : R :=
    if Rlt_dec s_A 0
    then Rmin (D ^ 2 * (INR T * (INR T - 1) / 2)) (1 / s_A ^ 2 + D / (exp 1 * - s_A))
    else D ^ 2 * \sum_(k < T) (INR k * exp (s_A * D * INR k)).
    """
    if s_A < 0:
        return min(D**2 * (mpf(T) * (T - 1) / 2), 1 / s_A**2 + D / (mp.e * -s_A))
    return D**2 * total(T, lambda k: k * mp.exp(s_A * D * k))


def worst_decay(s_A: Real, x: Real) -> Real:
    r"""Definition worst_decay (s_A x : R) : R :=
    if Rle_dec x 0 then 0
    else let y := Rmax 1 (Rmax 0 (- s_A) * x) in y * exp (- y).
    """
    if x <= 0:
        return mpf(0)
    y = max(mpf(1), max(mpf(0), -s_A) * x)
    return y * mp.exp(-y)


def index_sum(rho: Real, T: int) -> Real:
    r"""Definition index_sum (rho : R) (T : nat) : R := \sum_(k < T) (INR k * rho ^ k)."""
    return total(T, lambda k: k * rho**k)


def geometric_sum(rho: Real, T: int) -> Real:
    r"""Definition geometric_sum (rho : R) (T : nat) : R := \sum_(k < T) rho ^ k."""
    return total(T, lambda k: rho**k)


def excess(y: Real) -> Real:
    r"""Definition excess (y : R) : R := 1 / (1 - exp (- y)) - 1 / y."""
    return 1 / (1 - mp.exp(-y)) - 1 / y


def softplus(x: Real) -> Real:
    r"""Definition softplus (x : R) : R := ln (1 + exp x)."""
    return mp.log(1 + mp.exp(x))


def output(
    d: int,
    N: int,
    T: int,
    w: Steps,
    query: Steps,
    A: Sequence[Steps],
    keys: Sequence[Steps],
    values: Sequence[Steps],
    delta: Steps,
) -> Real:
    r"""Definition output (d N T : nat) (w query : nat -> R) (A : nat -> nat -> R)
        (keys values : nat -> nat -> R) (delta : nat -> R) : R :=
    \sum_(t < T) (delta t * \sum_(j < d) \sum_(n < N)
        (w j * query n * exp (A j n * tau T delta t) * keys t n * values t j)).
    """

    def of_token(t: int) -> Real:
        elapsed = tau(T, delta, t)
        return delta[t] * total(
            d,
            lambda j: total(
                N,
                lambda n: w[j] * query[n] * mp.exp(A[j][n] * elapsed) * keys[t][n] * values[t][j],
            ),
        )

    return total(T, of_token)


def largest_step(c: Any) -> Real:
    r"""Definition largest_step (c : constants) : R := softplus (p_hi c + B_q c * B_u c)."""
    return softplus(mpf(c.p_hi) + mpf(c.B_q) * c.B_u)


def smallest_step(c: Any) -> Real:
    r"""Definition smallest_step (c : constants) : R := softplus (p_lo c - B_q c * B_u c)."""
    return softplus(mpf(c.p_lo) - mpf(c.B_q) * c.B_u)


def gain(c: Any) -> Real:
    r"""Definition gain (c : constants) : R := B_B c * B_C c * B_u c ^ 3."""
    return mpf(c.B_B) * c.B_C * mpf(c.B_u) ** 3


def class_output_sum(c: Any) -> Real:
    r"""Definition class_output_sum (c : constants) : R :=
    output_sum (s_A c) (largest_step c) (seq_len c).
    """
    return output_sum(mpf(c.s_A), largest_step(c), c.T)


def class_decaying_sum(c: Any) -> Real:
    r"""Definition class_decaying_sum (c : constants) : R :=
    decaying_sum (s_A c) (largest_step c) (seq_len c).
    """
    return decaying_sum(mpf(c.s_A), largest_step(c), c.T)


def class_absolute_sum(c: Any) -> Real:
    r"""Definition class_absolute_sum (c : constants) : R :=
    absolute_sum (s_A c) (largest_step c) (seq_len c).
    """
    return absolute_sum(mpf(c.s_A), largest_step(c), c.T)


def output_bound(c: Any) -> Real:
    r"""Definition output_bound (c : constants) : R := B_w c * gain c * class_output_sum c."""
    return c.B_w * gain(c) * class_output_sum(c)


def relative_sum(c: Any) -> Real:
    r"""Definition relative_sum (c : constants) : R :=
    class_output_sum c + class_decaying_sum c + Rmax (s_A c) 0 * class_absolute_sum c.
    """
    return class_output_sum(c) + class_decaying_sum(c) + max(c.s_A, 0) * class_absolute_sum(c)


def scale(eta: Real, a: Real) -> Real:
    r"""Definition scale (eta a : R) : R :=
    if Rle_dec a 0 then - ln (eta - a) else a / eta - ln eta.
    """
    return -mp.log(eta - a) if a <= 0 else a / eta - mp.log(eta)


def scale_length(B_A: Real, s_A: Real, eta: Real) -> Real:
    r"""Definition scale_length (B_A s_A eta : R) : R :=
    if Rlt_dec s_A 0 then ln ((eta + B_A) / (eta - s_A)) else ln (1 + B_A / eta) + s_A / eta.
    """
    return mp.log((eta + B_A) / (eta - s_A)) if s_A < 0 else mp.log(1 + B_A / eta) + s_A / eta


def pairing(sigma: Steps, x: Steps) -> Real:
    r"""Fixpoint pairing (sigma x : list R) : R :=
    match sigma, x with
    | s :: sigma', a :: x' => s * a + pairing sigma' x'
    | _, _ => 0
    end.
    """
    return math.fsum(s * a for s, a in zip(sigma, x, strict=False))


def sample_norm(m: int, x: Steps) -> Real:
    r"""Definition sample_norm (m : nat) (x : list R) : R := sqrt (squares x / INR m)."""
    return math.sqrt(math.fsum(a**2 for a in x) / m)


def chaining_sum(m: int, log_count: Steps, eps: Steps, n: int) -> Real:
    r"""Definition chaining_sum (log_count : nat -> R) (eps : nat -> R) (n : nat) : R :=
    eps n + \sum_(j < n) (eps j * sqrt (2 * log_count (S j) / INR m)).
    """
    return eps[n] + total(n, lambda j: eps[j] * mp.sqrt(2 * log_count[j + 1] / mpf(m)))


def cheapest(before: Sequence[Level], deviation: Real) -> Real:
    r"""Fixpoint cheapest (before : list (R * R)) (deviation : R) : R :=
    match before with
    | [] => 0
    | [(radius, reached)] => reached + radius * deviation
    | (radius, reached) :: others =>
        Rmin (reached + radius * deviation) (cheapest others deviation)
    end.
    """
    return min((reached + radius * deviation for radius, reached in before), default=mpf(0))


def reach(before: list[Level], m: int, levels: Sequence[Level]) -> list[Level]:
    r"""Fixpoint reach (before : list (R * R)) (m : nat) (levels : list (R * R)) : list (R * R) :=
    match levels with
    | [] => before
    | (radius, count) :: finer =>
        reach ((radius, cheapest before (sqrt (2 * Rmax count 0 / INR m))) :: before) m finer
    end.
    """
    for radius, count in levels:
        deviation = mp.sqrt(2 * max(count, mpf(0)) / m)
        before = [(radius, cheapest(before, deviation)), *before]
    return before


def least_total(ends: Sequence[Level]) -> Real:
    r"""Fixpoint least_total (ends : list (R * R)) : R :=
    match ends with
    | [] => 0
    | [(radius, reached)] => reached + radius
    | (radius, reached) :: others => Rmin (reached + radius) (least_total others)
    end.
    """
    return min((reached + radius for radius, reached in ends), default=mpf(0))


def nested_chaining(m: int, levels: Sequence[Level]) -> Real:
    r"""Definition nested_chaining (m : nat) (levels : list (R * R)) : R :=
    least_total (reach [(1, 0)] m levels).
    """
    return least_total(reach([(mpf(1), mpf(0))], m, levels))


def half_up(m: int) -> int:
    r"""Definition half_up (m : nat) : nat := Nat.div2 (m + 1)."""
    return (m + 1) // 2


def absolute_sign_sum_formula(m: int) -> Real:
    r"""Definition absolute_sign_sum_formula (m : nat) : R :=
    2 * INR (half_up m) * choose m (half_up m) / 2 ^ m.
    """
    return mpf(2 * half_up(m) * math.comb(m, half_up(m))) / 2**m


def kl(q: Real, p: Real) -> Real:
    r"""Definition kl (q p : R) : R := q * ln (q / p) + (1 - q) * ln ((1 - q) / (1 - p))."""
    first = q * mp.log(q / p) if q else mpf(0)
    return first + ((1 - q) * mp.log((1 - q) / (1 - p)) if q != 1 else 0)


def log_odds(p: Real) -> Real:
    r"""Definition log_odds (p : R) : R := ln (p / (1 - p))."""
    return mp.log(p / (1 - p))


def bisect(enough: Callable[[Real], bool], n: int, low: Real, high: Real) -> tuple[Real, Real]:
    r"""Fixpoint bisect (enough : R -> bool) (n : nat) (low high : R) : R * R :=
    match n with
    | O => (low, high)
    | S n' =>
        let middle := (low + high) / 2 in
        if enough middle then bisect enough n' low middle else bisect enough n' middle high
    end.
    """
    for _ in range(n):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low, high


def binomial_mass(n: int, p: Real, k: int) -> Real:
    r"""Definition binomial_mass (n : nat) (p : R) (k : nat) : R :=
    choose n k * (p ^ k * (1 - p) ^ (n - k)).
    """
    return math.comb(n, k) * (p**k * (1 - p) ** (n - k))


def binomial_tail(n: int, k: int, p: Real) -> Real:
    r"""Definition binomial_tail (n k : nat) (p : R) : R := \sum_(i < S k) binomial_mass n p i."""
    return total(k + 1, lambda i: binomial_mass(n, p, i))


def independent_errors(n: int, p: Real, f: Callable[[int], Real]) -> Real:
    r"""Fixpoint independent_errors (n : nat) (p : R) (f : nat -> R) : R :=
    match n with
    | O => f O
    | S m => p * independent_errors m p (fun k => f (S k)) + (1 - p) * independent_errors m p f
    end.
    """
    if n == 0:
        return f(0)
    error = independent_errors(n - 1, p, lambda k: f(k + 1))
    return p * error + (1 - p) * independent_errors(n - 1, p, f)
