"""How often the audit's verdicts are right: on models whose faults are known."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scipy.stats import binomtest

from keelback.audit import AuditResult, audit
from keelback.benchmarks.calibration_models import CLAIMS, TRAINED, Case, cases

_STATEMENTS = {
    "unstable": "Unstable",
    "does not hold": "Does not hold",
    "states leave the range": "States leave the range",
    "step sizes leave the range": "Step sizes leave the range",
    "dead channels": "Some channels are dead",
    "saturated channels": "Some channels are saturated",
    "overflows in float16": "Overflows in float16",
}


def calibration(
    report: Callable[[str], None] = lambda name: None,
    of: Iterable[Case] | None = None,
    first_seed: int = 0,
) -> dict[str, Any]:
    """Audit every case; gives what was said of each, and counts for each claim."""
    audited = []
    for case in cases(report, first_seed) if of is None else of:
        report(f"auditing {case.name}")
        result = audit(case.model, case.tokens, train_length=TRAINED)
        audited.append(
            {
                "name": case.name,
                "group": case.group,
                "truth": dict(case.truth),
                "said": said(result),
                "verdict": result.verdict,
            }
        )
    return {
        "models": len(audited),
        "claims": [counts(c, audited) for c in CLAIMS],
        "cases": audited,
    }


def said(result: AuditResult) -> dict[str, bool]:
    """Which of the claims an audit makes: as a problem, a warning, or a note.

    What leaves the range of training is only worth a note where the loss holds all the same.
    """
    claims = {
        claim: any(finding.statement.startswith(words) for finding in result.findings)
        for claim, words in _STATEMENTS.items()
    }
    return {**claims, "not read in full": len(result.measures) < len(result.found)}


def counts(claim: str, audited: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Hits among the models that a claim is true of, false alarms among the others."""
    known = [one for one in audited if claim in one["truth"]]
    true = [one for one in known if one["truth"][claim]]
    false = [one for one in known if not one["truth"][claim]]
    missed = [one["name"] for one in true if not one["said"][claim]]
    alarmed = [one["name"] for one in false if one["said"][claim]]
    return {
        "claim": claim,
        "true": len(true),
        "hits": len(true) - len(missed),
        "hit_rate": _rate(len(true) - len(missed), len(true)),
        "false": len(false),
        "false_alarms": len(alarmed),
        "false_alarm_rate": _rate(len(alarmed), len(false)),
        "missed": missed,
        "alarmed": alarmed,
    }


def _rate(count: int, of: int) -> dict[str, float] | None:
    """A share with its 95 % interval (Wilson's), or nothing."""
    if of == 0:
        return None
    interval = binomtest(count, of).proportion_ci(0.95, "wilson")
    return {"share": count / of, "low": float(interval.low), "high": float(interval.high)}


def summary_csv(found: Mapping[str, Any]) -> str:
    """The counts as a CSV file with a row for each claim."""
    file = io.StringIO()
    rows = [
        {
            "the audit says": counted["claim"],
            "true of": counted["true"],
            "said of these": counted["hits"],
            "hit rate": _in_words(counted["hit_rate"]),
            "false of": counted["false"],
            "said of those": counted["false_alarms"],
            "false alarms": _in_words(counted["false_alarm_rate"]),
        }
        for counted in found["claims"]
    ]
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _in_words(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return ""
    return f"{rate['share']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"
