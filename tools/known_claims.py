"""The rows of the page of what is known: each claim, with verdict, size, interval, seeds and file.

`tools/known_papers.toml` and `known_ours.toml` list the claims; every number comes from the result
file that a row names, when `python tools/fill_tables.py` fills the page. A row of the lists has:

    result      folder or file of the result
    statement   beginning of the statement, as the result has it, whose verdict and evidence count
    claim       what the page says instead of the statement
    of          which task or setting it is on, in words or as the result's name has it
    effect      where the measured number lies: keys one after the other, from the experiment's
                numbers on; `name=value` picks from a list the entry that has it, `*` takes all that
                have what the next key names
    unit        what the number counts
    seeds       where the number of seeds, trials or models lies, in the same way, or a list of
                them; `name=()` picks the entry that the statement names in parentheses
    expects     "below 0" or "above 0": the verdict where the result has no statement
    within      the verdict says at how many places `effect` is at most this in size
    bound       where a guaranteed upper bound lies; `logarithm = true` if as a power of ten
    theorem     a theorem of `proofs/theorems.json`, of the result that says that Coq accepted it
    each        values to put for `{}` in the others: one row for each
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from results_index import ROOT, read
from upward import at_most

HEADING = ["claim", "on", "verdict", "measured", "95 % interval", "seeds", "file"]
NAMES = {
    "imdb": "IMDb",
    "imdb-float64-norm": "IMDb, norms in float64",
    "listops": "ListOps",
    "listops-float64-norm": "ListOps, norms in float64",
    "majority": "Majority",
}
"""How a page calls what a result's name ends in."""

Row = Mapping[str, Any]

_VALUES = ("mean", "per_doubling", "exponent", "tau", "share")
_LOW, _HIGH = ("lower", "low"), ("upper", "high")


def table(listed_in: Path, part: str) -> list[list[str]]:
    """The heading and the rows of one part of a list, such as `papers`."""
    listed = tomllib.loads(listed_in.read_text())[part]
    rows = [
        row
        for one in listed
        for each in one.get("each", [None])
        for row in _rows(one if each is None else _with(one, str(each)))
    ]
    heading = HEADING if "paper" not in listed[0] else ["paper", *HEADING]
    return [heading, *rows]


def _with(value: Any, each: str) -> Any:
    if isinstance(value, str):
        return value.replace("{}", each)
    if isinstance(value, list):
        return [_with(part, each) for part in value]
    if isinstance(value, Mapping):
        return {name: _with(part, each) for name, part in value.items()}
    return value


def _rows(one: Row) -> list[list[str]]:
    file = ROOT / one["result"]
    file = file / "results.json" if file.is_dir() else file
    document = _document(file)
    numbers = _numbers(document)
    found = []
    for statement, verdict, evidence in _stated(one, document, numbers):
        measured, interval = _measured(one, numbers) or (evidence, "")
        text = one.get("claim", statement).removesuffix(".")
        on = one.get("of", "")
        seeds = _seeds(one, numbers, statement)
        cells = [text, NAMES.get(on, on), verdict, measured, interval, seeds]
        cells = [cell.replace("<", "&lt;").replace("|", "\\|") for cell in cells]
        cells.append(f"`{file.relative_to(ROOT)}`")
        found.append([f"arXiv {one['paper']}", *cells] if "paper" in one else cells)
    return found


@cache
def _document(file: Path) -> Mapping[str, Any]:
    return dict(read(file))


def _numbers(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an experiment found: of a report with one outcome that outcome's numbers."""
    outcomes = document.get("outcomes", {})
    return next(iter(outcomes.values())) if len(outcomes) == 1 else document


def _stated(
    one: Row, document: Mapping[str, Any], numbers: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """The statements that the row means, with verdict and evidence."""
    if "statement" in one:
        claims = [claim for claims in document["claims"].values() for claim in claims]
        begins = one["statement"]
        found = [claim for claim in claims if claim["statement"].startswith(begins)]
        if not found:
            raise ValueError(f"{one['result']} has no claim that begins with {begins!r}")
        return [(c["statement"], c["verdict"], c["evidence"]) for c in found]
    if "theorem" in one:
        return [(one["claim"], "proved by machine", _theorem(one["theorem"], document))]
    return [(one["claim"], _verdict(one, numbers), "")]


def _theorem(name: str, document: Mapping[str, Any]) -> str:
    if not any(each["theorem"] == name for each in document["each"]):
        raise ValueError(f"Coq was not asked for {name}")
    listed = json.loads((ROOT / "proofs/theorems.json").read_text())
    rows = [row for rows in listed.values() for row in rows]
    return str(next(row["says"] for row in rows if row["theorem"] == f"`{name}`"))


def _verdict(one: Row, numbers: Mapping[str, Any]) -> str:
    if "bound" in one:
        return "certified"
    found = select(numbers, one["effect"])
    if "within" in one:
        sizes = [abs(size) for size in found if size is not None]
        return f"holds at {sum(size <= one['within'] for size in sizes)} of {len(sizes)}"
    if "expects" not in one:
        return "measured"
    _, low, high = _value(found[0])
    assert low is not None
    assert high is not None
    if one["expects"] == "above 0":
        low, high = -high, -low
    return "holds" if high < 0 else "does not hold" if low > 0 else "no difference shown"


def _measured(one: Row, numbers: Mapping[str, Any]) -> tuple[str, str] | None:
    """The number and its interval; None where only the evidence says something."""
    unit = f" {one['unit']}" if "unit" in one else ""
    if "bound" in one:
        [bound] = select(numbers, one["bound"])
        bound = 10**bound if one.get("logarithm") else bound
        return at_most(bound) + unit, "one-sided"
    if "effect" not in one:
        return None
    found = select(numbers, one["effect"])
    if "within" in one:
        sizes = [size for size in found if size is not None]
        return f"{_shown(min(sizes))} to {_shown(max(sizes))}{unit}", ""
    value, low, high = _value(found[0])
    if low is None or high is None:
        return _shown(value) + unit, ""
    signed = not (isinstance(found[0], Mapping) and "share" in found[0])
    return _shown(value, signed) + unit, f"{_shown(low, signed)} to {_shown(high, signed)}"


def _value(found: Any) -> tuple[float, float | None, float | None]:
    """A number with its interval, from the forms that results have."""
    if isinstance(found, Mapping):
        value, low, high = (
            next(found[name] for name in names if name in found) for names in (_VALUES, _LOW, _HIGH)
        )
        return value, low, high
    if isinstance(found, list):
        value, low, high = found
        return value, low, high
    return found, None, None


def _shown(number: float, signed: bool = True) -> str:
    """A count as it is, another number with three digits, with its sign where that can be minus."""
    if isinstance(number, int):
        return str(number)
    return f"{number:+.3g}" if signed else f"{number:.3g}"


def _seeds(one: Row, numbers: Mapping[str, Any], statement: str) -> str:
    if "seeds" not in one:
        return ""
    named = re.search(r"\((.*)\)\.?$", statement)
    keys = [key.replace("=()", f"={named[1] if named else ''}") for key in one["seeds"]]
    found = [len(count) if isinstance(count, list) else count for count in select(numbers, keys)]
    least, most = min(found), max(found)
    return str(least) if least == most else f"{least} to {most}"


def select(numbers: Any, keys: Sequence[str]) -> list[Any]:
    """What lies at the end of the keys, one value for each that `*` and `name=value` leave."""
    found = [numbers]
    for key in keys:
        name, equal, value = key.partition("=")
        after: list[Any] = []
        for part in found:
            if key == "*":
                after += part.values() if isinstance(part, Mapping) else part
            elif isinstance(part, Mapping) and key in part:
                after.append(part[key])
            elif equal:
                entries = part if isinstance(part, list) else [part]
                after += [entry for entry in entries if str(entry.get(name)) == value]
            elif isinstance(part, list):
                after.append(part[int(key)])
        found = after
    if not found:
        raise ValueError(f"nothing lies at {' / '.join(keys)}")
    return found
