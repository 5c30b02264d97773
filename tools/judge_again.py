"""Judge committed claims again by today's rule, from committed numbers, without the runs.

    python tools/judge_again.py RESULT [RESULT ...]

RESULT is a folder under results/experiments. Judged are the claims that epochs only grow, or only
fall: their rule needs nothing but the rows of `results.json`. Statements and numbers stay as they
are. `results.json` notes, under `judged`, which claims changed, by which commit and when.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keelback.commit import require_clean
from keelback.errors import InputError
from keelback.experiments.second_paper.gated_experiment import order_claim
from keelback.files import write_json
from keelback.sweeps import provenance

RESULTS = Path(__file__).resolve().parents[1] / "results" / "experiments"
ORDER = re.compile(r"Epochs to .+? (grow|fall) .+ \((.+)\)\.")


def judged(
    grid: Sequence[Mapping[str, Any]], claims: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The claims in their order, those on the order of epochs as today's rule has them."""
    for claim in claims:
        found = ORDER.fullmatch(claim["statement"])
        if found is None:
            yield claim
            continue
        points = [dict(row) for row in grid if row["series"] == found[2]]
        if found[1] == "grow":
            again = order_claim(found[0], points, "grows", f"near = {points[0]['near']}")
        else:
            again = order_claim(found[0], points, "falls", "the least gap")
        yield asdict(again)


def judge(folder: Path, record: Mapping[str, Any]) -> None:
    """Judge the claims of a result, and note in `results.json` which ones changed."""
    result = json.loads((folder / "results.json").read_text())
    changed = []
    for name, numbers in result["outcomes"].items():
        before = result["claims"][name]
        after = list(judged(numbers.get("grid", []), before))
        changed += [new["statement"] for old, new in zip(before, after, strict=True) if old != new]
        for old, new in zip(before, after, strict=True):
            if old["verdict"] != new["verdict"]:
                print(f"{folder.name}: {new['statement']} {old['verdict']} -> {new['verdict']}")
        result["claims"][name] = after
    print(f"{folder.name}: {len(changed)} claims changed in verdict or evidence")
    if changed:
        result["judged"] = {"claims": changed, **record}
        write_json(folder / "results.json", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", metavar="RESULT")
    parser.add_argument("--allow-dirty", action="store_true", help="judge by changed code")
    given = parser.parse_args()
    try:
        require_clean(RESULTS, allow_dirty=given.allow_dirty)
    except InputError as error:
        sys.exit(f"error: {error}")
    record = provenance(command=shlex.join(["python", "tools/judge_again.py", *sys.argv[1:]]))
    for name in given.results:
        if not (RESULTS / name / "results.json").is_file():
            sys.exit(f"error: there is no result {name} in {RESULTS}")
        judge(RESULTS / name, record)


if __name__ == "__main__":
    main()
