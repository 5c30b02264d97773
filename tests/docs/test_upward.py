"""Certified upper bounds are never rounded down, in no table."""

import importlib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def upward() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        return importlib.import_module("upward")


@given(st.floats(min_value=-1e6, max_value=1e12), st.integers(0, 6))
def test_the_next_decimal_number_above(upward: ModuleType, bound: float, places: int) -> None:
    shown = Fraction(upward.rounded_up(bound, places))
    assert bound <= shown < Fraction(bound) + Fraction(1, 10**places)


@given(st.decimals(min_value=-(10**6), max_value=10**9, allow_nan=False))
def test_three_digits_above(upward: ModuleType, number: Decimal) -> None:
    shown = Fraction(upward.significant_up(str(number)))
    assert shown >= number
    if number:
        assert shown - Fraction(number) < Fraction(10) ** min(number.adjusted() - 2, 0)


def test_a_table_rounds_the_column_of_a_bound_up(
    upward: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    fill = importlib.import_module("fill_tables")
    (tmp_path / "table.csv").write_text(
        "name,covering bound,bits certified,own error\n"
        "a,0.12301,1234.2,0.12301\nb,at most 0.5,vacuous,\nc,inf,-1.2341,2\n"
    )
    monkeypatch.setattr(fill, "ROOT", tmp_path)
    rows = fill.as_markdown("table.csv").splitlines()[2:]
    assert rows == [
        "| a | 0.124 | 1235 | 0.123 |",
        "| b | at most 0.5 | vacuous |  |",
        "| c | inf | -1.23 | 2 |",
    ]
