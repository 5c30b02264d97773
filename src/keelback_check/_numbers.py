"""Numbers of a certificate: exact, or balls of python-flint."""

from fractions import Fraction
from typing import Any

from flint import arb, fmpq

LOOSE = Fraction(1, 10**12)


class RefusedError(Exception):
    """Why a certificate is not accepted."""


def need(condition: object, reason: str) -> None:
    """Refuse unless the condition holds; what is undecided does not hold."""
    if not condition:
        raise RefusedError(reason)


def count(x: object, least: int = 0) -> int:
    """A whole number, at least `least`."""
    if type(x) is not int or x < least:
        raise RefusedError(f"{x!r:.40} is not a whole number of {least} or more")
    return x


def double(x: object) -> Fraction:
    """A number that is written with a point, exactly."""
    if type(x) is not float:
        raise RefusedError(f"{x!r:.40} is not a number with a point")
    return Fraction(x)


def real(x: Any) -> Any:
    """The ball of a number; doubles and fractions are meant exactly."""
    fraction = Fraction(x)
    return arb(fmpq(fraction.numerator, fraction.denominator))


def kl(q: Fraction, p: Fraction) -> Any:
    """Relative entropy of Bernoulli means."""
    if p in (0, 1):
        return arb(0) if q == p else arb("inf")
    one = real(q) * (real(q) / real(p)).log() if q else arb(0)
    return one + (real(1 - q) * (real(1 - q) / real(1 - p)).log() if q != 1 else arb(0))
