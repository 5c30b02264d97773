"""Constants are refused with a message that names the key, or they are right."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from bounds_reference import SMALL

from keelback.bounds import ClassConstants
from keelback.errors import InputError

GOOD = SMALL.as_dict()


def test_json_and_mapping_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "constants.json"
    path.write_text(json.dumps(GOOD))
    assert ClassConstants.from_json(path) == ClassConstants.from_mapping(GOOD) == SMALL


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert ClassConstants.from_mapping({**GOOD, "T": 100.0, "B_A": 3}).T == 100


@pytest.mark.parametrize("name", list(GOOD))
def test_each_missing_constant_is_named(name: str) -> None:
    without = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(InputError, match=rf"missing: {name};"):
        ClassConstants.from_mapping(without)


def test_all_missing_and_unknown_constants_are_named() -> None:
    with pytest.raises(InputError, match="missing: T, m, d, N;"):
        ClassConstants.from_mapping({k: v for k, v in GOOD.items() if k not in "TmdN"})
    with pytest.raises(InputError, match="unknown class constants: B_x, t;"):
        ClassConstants.from_mapping({**GOOD, "B_x": 1, "t": 2})


@pytest.mark.parametrize("name", [k for k in GOOD if k not in ("s_A", "p_lo", "p_hi")])
@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, "3", None, True, [1.0], 1e61])
def test_each_ill_valued_constant_is_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name} ") as caught:
        ClassConstants.from_mapping({**GOOD, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["s_A", "p_lo", "p_hi"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, "x", pytest.param(10**400, id="huge")])
def test_signed_constants_must_be_finite_numbers(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name} "):
        ClassConstants.from_mapping({**GOOD, name: value})


@pytest.mark.parametrize("name", ["T", "m", "d", "N"])
@pytest.mark.parametrize("value", [0, -5, 2.5, pytest.param(10**400, id="huge")])
def test_counts_are_whole_and_positive(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{name} .*whole number"):
        ClassConstants.from_mapping({**GOOD, name: value})


@pytest.mark.parametrize("letter", ["B", "C", "q", "w"])
def test_l1_below_l2_is_refused(letter: str) -> None:
    with pytest.raises(InputError, match=rf"^M_{letter} = .* smaller than B_{letter}"):
        ClassConstants.from_mapping({**GOOD, f"M_{letter}": GOOD[f"B_{letter}"] / 2})


def test_empty_intervals_are_refused() -> None:
    with pytest.raises(InputError, match="p_lo = 1 is larger than p_hi"):
        dataclasses.replace(SMALL, p_lo=1.0)
    with pytest.raises(InputError, match=r"B_A = 0\.1 is smaller than -s_A"):
        dataclasses.replace(SMALL, B_A=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "one JSON object"),
        ("", "is not JSON"),
        (json.dumps(GOOD).replace("1.3", "NaN"), "B_u = nan must be finite"),
        ("[" * 100_000, "is not JSON: it is nested too deeply"),
        (json.dumps(GOOD)[:-1] + ', "B_u": 2}', "is not JSON: B_u stands in it twice"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "constants.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        ClassConstants.from_json(path)
    assert "constants.json" in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent\.json: No such file"):
        ClassConstants.from_json(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        ClassConstants.from_json(tmp_path / "binary.json")


def test_steps_of_the_class() -> None:
    reach = SMALL.B_q * SMALL.B_u
    assert math.exp(SMALL.log_largest_step) == pytest.approx(math.log1p(math.exp(0.5 + reach)))
    assert math.exp(SMALL.log_smallest_step) == pytest.approx(math.log1p(math.exp(-1 - reach)))
    far = dataclasses.replace(SMALL, p_lo=-1e6)
    assert far.log_smallest_step == pytest.approx(-1e6 - reach)
