"""keelback-check: does a certificate follow from what it says was counted?

This module shares no code with keelback. From a certificate (JSON, `keelback certify --certificate
FILE`) it recomputes every failure probability as a fraction and every bound in ball arithmetic,
composes the sentences anew, and accepts the certificate only if all of it agrees. With `--file` it
compares a checkpoint with the certificate's hash. What it cannot see is whether the counts are
true: for that, run the model on the data.
"""

import hashlib
import json
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

try:
    from flint import arb, ctx

    from keelback_check._language import LANGUAGE
    from keelback_check._numbers import LOOSE, RefusedError, count, double, kl, need, real
    from keelback_check._samples import about, check_task, check_texts, check_tokenizer, notice

    READY = True
except ModuleNotFoundError:
    READY, LANGUAGE = False, {}

FORMAT = "keelback certificate 1"
USAGE = "usage: keelback-check CERTIFICATE.json [--file CHECKPOINT]"
SIGMAS = 12
KEYS = ["notices", "format", "attempt", "checkpoint", "data", "code", "statements",
        "joint_confidence", "digest"]  # fmt: skip
OF_A_STATEMENT = ["kind", "about", "examples", "delta", "delta_after_attempts", "bound",
                  "evidence", "words", "symbols"]  # fmt: skip
DELTA = re.compile(r"0\.[0-9]{1,20}|[0-9](\.[0-9]{1,20})?e-[0-9]{1,3}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_ERRORS = 10**6


def tail(errors: int, examples: int, p: Fraction) -> Any:
    """P(Binomial(examples, p) <= errors), term by term, for 0 < p < 1."""
    one, rest = real(p), real(1 - p)
    term, total = rest**examples, arb(0)
    for k in range(errors + 1):
        total += term
        term *= one * (examples - k) / (rest * (k + 1))
    return total


def by_count(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """Clopper and Pearson 1934: how far the tail at p is below delta."""
    errors, examples = count(e["errors"]), count(e["examples"], 1)
    need(errors <= examples, "more errors than examples")
    need(errors <= MOST_ERRORS, f"more than {MOST_ERRORS} errors are not added up here")
    count(e.get("label", 0))
    if p == 1:
        return arb(0)
    return real(delta) - tail(errors, examples, p) if p > 0 and errors < examples else arb(-1)


def by_list(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """The same, with a list of the examples that are labelled wrong."""
    wrong = [count(i) for i in e["wrong"]]
    need(wrong == sorted(set(wrong)) and len(wrong) == e["errors"], "errors and their list differ")
    need(all(i < e["examples"] for i in wrong), "an error on an example that there is not")
    return by_count(e, delta, p)


def by_draws(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """Seeger's or Chernoff's bound, with the sample's error estimated from draws of weights."""
    n, tried, k = count(e["examples"], 1), count(e["tried"], 1), len(e["draws"])
    need(k > 1 and tried <= n, "too few draws, or more examples tried than there are")
    rates = [Fraction(count(x), tried) for x in e["draws"]]
    need(max(rates) <= 1, "more errors in a draw than examples")
    mean, upper = sum(rates, Fraction(0)) / k, double(e["sample_error_bound"])
    for_draws = delta / 5
    need(mean <= upper <= 1, "the bound on the sample's error is below its estimate")
    variance = sum((x - mean) ** 2 for x in rates) / (k - 1)
    log_4 = (4 / real(for_draws)).log()
    bernstein = real(mean) + (2 * real(variance) * log_4 / k).sqrt() + 7 * log_4 / (3 * (k - 1))

    def holds(x: Fraction) -> bool:
        by_kl = x > mean and kl(mean, x) >= (2 / real(for_draws)).log() / k
        return bool(bernstein <= real(x) or by_kl)

    need(holds(upper) or upper == 1, "the bound on the sample's error does not hold")
    need(not holds(upper * (1 - LOOSE)), "the draws do not give the bound on the sample's error")
    need(type(e["posterior"]) is bool, "posterior is neither true nor false")
    divergence, top = double(e["kl"]), 2 * arb(n).sqrt() if e["posterior"] else arb(1)
    need(divergence >= 0 and (e["posterior"] or divergence == 0), "KL without a posterior")
    budget = (real(divergence) + (top * SIGMAS / real(delta - for_draws)).log()) / n
    return kl(upper, p) - budget if p > upper else arb(0 if p == 1 else -1)


KINDS: dict[str, tuple[Any, str, str]] = {
    "held out": (
        by_list,
        "the checkpoint errs on a new example with probability at most {bound}",
        "P(Bin({examples}, {bound}) <= {errors}) <= delta'",
    ),
    "constant": (
        by_count,
        "always answering {label} errs on a new example with probability at most {bound}",
        "P(Bin({examples}, {bound}) <= {errors}) <= delta'",
    ),
    "gibbs": (
        by_draws,
        "weights drawn anew for each prediction from the {distribution} err on a new example with "
        "probability at most {bound}",
        "kl({sample_error_bound} || {bound}) >= (KL + log({top} / (4 delta' / 60))) / {examples}",
    ),
    **LANGUAGE,
}


def words(statement: dict[str, Any]) -> list[str]:
    """The statement as a sentence and as an inequality."""
    _, sentence, symbols = KINDS[statement["kind"]]
    e = {**statement["evidence"], "bound": statement["bound"]}
    e["distribution"] = "posterior" if e.get("posterior") else "prior"
    e["top"] = f"2 sqrt({e['examples']})" if e.get("posterior") else "1"
    start = f"With probability 1 - {statement['delta']}, on {statement['about']}, "
    return [start + sentence.format(**e) + ".", symbols.format(**e)]


def digest(certificate: dict[str, Any]) -> str:
    """SHA-256 of everything but the digest itself."""
    rest = {key: value for key, value in certificate.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check(certificate: dict[str, Any]) -> None:
    """Accept a certificate by returning.

    Raises:
        RefusedError: says what does not hold.
    """
    need(list(certificate) == KEYS, f"the keys are not {', '.join(KEYS)}, in this order")
    need(certificate["format"] == FORMAT, f"the format is not {FORMAT}")
    need(certificate["digest"] == digest(certificate), "the digest is not that of the content")
    of = certificate["checkpoint"].get("sha256")
    need(type(of) is str and SHA256.fullmatch(of), "no hash says which checkpoint it is about")
    samples = certificate["data"]["overlap"]
    notices = [notice(what, found) for what, found in samples.items()]
    notices.sort(key=lambda text: not text.startswith("WARNING"))
    need(certificate["notices"] == notices, "the notices do not say what the counts say")
    attempt, statements = count(certificate["attempt"], 1), certificate["statements"]
    need(statements, "there is no statement")
    for number, statement in enumerate(statements, start=1):
        need(list(statement) == OF_A_STATEMENT, f"the keys of statement {number} are others")
        need(statement["kind"] in KINDS, f"statement {number} is of no kind that is known")
        where = f"statement {number} ({statement['kind']}): "
        check_statement(statement, attempt, certificate, where)
    joint = 1 - sum(Fraction(statement["delta"]) for statement in statements)
    need(certificate["joint_confidence"] == str(joint), "the joint confidence is wrong")


def check_statement(
    statement: dict[str, Any], attempt: int, certificate: dict[str, Any], where: str
) -> None:
    """Recompute one statement."""
    language, evidence = statement["kind"] in LANGUAGE, statement["evidence"]
    need(DELTA.fullmatch(statement["delta"]), where + "delta is not written as a decimal number")
    given, bound = Fraction(statement["delta"]), double(statement["bound"])
    top = double(evidence["width"]) if language else 1
    need(0 < given < 1 and 0 <= bound <= top, where + "delta or bound is no probability")
    delta = given / (attempt * (attempt + 1))
    need(statement["delta_after_attempts"] == str(delta), where + "the share of delta is wrong")
    sample = certificate["data"]["overlap"][statement["examples"]]
    need(sample["counted"] == evidence["examples"], where + "other examples")
    need(statement["about"] in about(statement, sample), where + "it is about something else")
    if language:
        check_texts(statement, sample, certificate)
    else:
        check_task(certificate["data"])
    slack = KINDS[statement["kind"]][0]
    with ctx.workprec(256):
        need(slack(evidence, delta, bound) >= 0, where + "the bound does not hold")
        looser = slack(evidence, delta, bound * (1 - LOOSE)) >= 0
    need(not looser, where + "the bound is not what the evidence gives")
    said = [statement["words"], statement["symbols"]]
    need(said == words(statement), where + "the words do not say what the numbers say")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that says nothing twice: of two, another reader might take the other one."""
    found = dict(pairs)
    need(len(found) == len(pairs), "a key stands twice in one object")
    return found


def no_number(text: str) -> None:
    """NaN and infinities are no JSON."""
    raise RefusedError(f"{text} is no number")


def main(arguments: list[str] | None = None) -> int:
    """keelback-check CERTIFICATE.json [--file CHECKPOINT]: 0 accepted, 1 refused, 2 unreadable."""
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["-h"], ["--help"]):
        ends = "Exit code: 0 accepted, 1 refused, 2 a file cannot be read."
        print(USAGE, (__doc__ or "").strip(), ends, sep="\n\n")
        return 0
    if len(given) not in (1, 3) or given[0].startswith("-") or given[1:2] not in ([], ["--file"]):
        print(USAGE, file=sys.stderr)
        return 2
    if not READY:
        print("error: needs python-flint: pip install 'keelback[certify]'", file=sys.stderr)
        return 2
    try:
        text = Path(given[0]).read_text(encoding="utf-8")
        contents = [Path(name).read_bytes() for name in given[2:]]
        certificate = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
        check(certificate)
        for content in contents:
            own = certificate["checkpoint"]
            same = hashlib.sha256(content).hexdigest() == own["sha256"]
            need(same, f"{given[2]} is another checkpoint")
            need(own.get("bytes", len(content)) == len(content), f"{given[2]} has another size")
            if "tokenizer" in certificate["data"]:
                check_tokenizer(content, certificate["data"]["tokenizer"])
    except RefusedError as reason:
        print(f"REFUSED: {reason}")
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        print(f"error: {given[0]} is no JSON: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # Whatever is missing or of another type is a reason to refuse.
        print(f"REFUSED: malformed ({type(error).__name__}: {error!s:.200})")
        return 1
    for line in [*certificate["notices"], *(own["words"] for own in certificate["statements"])]:
        print(line)
    if not contents:
        print("The checkpoint was not looked at: --file CHECKPOINT compares its hash and size.")
    print(f"ACCEPTED: each of {len(certificate['statements'])} statements on its own, all together "
          f"with probability at least {certificate['joint_confidence']}")  # fmt: skip
    return 0


def _exit() -> None:
    sys.exit(main())
