"""Certified upper bounds in tables: a rounded one is never below the exact one."""

from decimal import ROUND_CEILING, Decimal


def rounded_up(bound: float, places: int = 3) -> str:
    """The smallest number of so many decimal places that is not below the bound."""
    return str(Decimal(bound).quantize(Decimal(1).scaleb(-places), rounding=ROUND_CEILING))


def at_most(bound: float) -> str:
    """Words, which no table rounds again."""
    return f"at most {rounded_up(bound)}"


def significant_up(text: str, digits: int = 3) -> str:
    """A decimal number with so many significant digits, rounded up."""
    number = Decimal(text)
    if number == 0:
        return "0"
    place = number.adjusted() - digits + 1
    rounded = number.quantize(Decimal(1).scaleb(min(place, 0)), rounding=ROUND_CEILING)
    return f"{rounded.normalize():f}"
