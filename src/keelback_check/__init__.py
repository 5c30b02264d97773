"""keelback-check: does a certificate follow from what it says was counted?

This module shares no code with keelback. From a certificate (JSON, `keelback certify --certificate
FILE`) it recomputes every failure probability as a fraction and every bound in ball arithmetic,
composes the sentences anew, and accepts the certificate only if all of it agrees. With `--file` it
compares a checkpoint with the certificate's hash. What it cannot see is whether the counts are
true: for that, run the model on the data.
"""

import hashlib
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

try:
    from flint import arb, ctx

    from keelback_check._language import LANGUAGE, notice_of_code
    from keelback_check._numbers import LOOSE, RefusedError, count, double, kl, need, real

    READY = True
except ModuleNotFoundError:
    READY, LANGUAGE = False, {}

FORMAT = "keelback certificate 1"
SIGMAS = 12
KEYS = ["notices", "format", "attempt", "checkpoint", "data", "code", "statements",
        "joint_confidence", "digest"]  # fmt: skip


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


def notice(what: str, o: dict[str, Any]) -> str:
    """One sentence: what was found of copies among some examples, or that their code is paid."""
    if "code_bits" in o:
        return notice_of_code(o)
    exact, within = count(o["exact"]), count(o["within"])
    near = "" if o["near"] is None else f" and {count(o['near'])} near"
    unlooked = " (near ones were not looked for)" if o["near"] is None else ""
    copies = f"{exact} exact{near} copies of training examples{unlooked} and {within} repeated"
    if o["drawn"] is True:
        need(o["near"] is o["policy"] is None, "copies by chance have neither near ones nor policy")
        return (f"The {what} are drawn independently by a program; by chance {exact} of them "
                f"coincide with training examples and {within} with each other.")  # fmt: skip
    need(o["drawn"] is False and o["policy"] in ("refuse", "drop", "allow"), "policy on copies")
    if exact == within == 0 and not o["near"]:
        return f"Among the {what} there are {copies} examples."
    if o["policy"] == "drop":
        return f"Left out of the {what}: {copies} examples."
    need(o["policy"] == "allow", "copies that were neither dropped nor allowed")
    return f"WARNING: among the {what} there are {copies} examples, counted as if they were new."


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
    overlap = certificate["data"]["overlap"]
    notices = [notice(what, found) for what, found in overlap.items()]
    notices.sort(key=lambda text: not text.startswith("WARNING"))
    need(certificate["notices"] == notices, "the notices do not say what the counts say")
    attempt, statements = count(certificate["attempt"], 1), certificate["statements"]
    need(statements, "there is no statement")
    for number, statement in enumerate(statements, start=1):
        where = f"statement {number} ({statement['kind']}): "
        given, bound = Fraction(statement["delta"]), double(statement["bound"])
        top = double(statement["evidence"]["width"]) if statement["kind"] in LANGUAGE else 1
        need(0 < given < 1 and 0 <= bound <= top, where + "delta or bound is no probability")
        delta = given / (attempt * (attempt + 1))
        need(statement["delta_after_attempts"] == str(delta), where + "the share of delta is wrong")
        sample = overlap[statement["examples"]]
        need(sample["counted"] == statement["evidence"]["examples"], where + "other examples")
        slack, evidence = KINDS[statement["kind"]][0], statement["evidence"]
        if statement["kind"] in LANGUAGE and statement["kind"] != "n-gram":
            need(evidence["code_bits"] == sample.get("code_bits", 0), where + "another code")
            size = count(certificate["checkpoint"]["bytes"], 1)
            paid = 8 * size + 2 * size.bit_length() - 1
            need(evidence["code_bits"] in (0, paid), where + "the code is not as long as the file")
        with ctx.workprec(256):
            need(slack(evidence, delta, bound) >= 0, where + "the bound does not hold")
            looser = slack(evidence, delta, bound * (1 - LOOSE)) >= 0
        need(not looser, where + "the bound is not what the evidence gives")
        said = [statement["words"], statement["symbols"]]
        need(said == words(statement), where + "the words do not say what the numbers say")
    joint = 1 - sum(Fraction(statement["delta"]) for statement in statements)
    need(certificate["joint_confidence"] == str(joint), "the joint confidence is wrong")


def main(arguments: list[str] | None = None) -> int:
    """keelback-check CERTIFICATE.json [--file CHECKPOINT]: 0 accepted, 1 refused, 2 unreadable."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) not in (1, 3) or given[0].startswith("-") or given[1:2] not in ([], ["--file"]):
        print("usage: keelback-check CERTIFICATE.json [--file CHECKPOINT]", file=sys.stderr)
        return 2
    if not READY:
        print("error: needs python-flint: pip install 'keelback[certify]'", file=sys.stderr)
        return 2
    try:
        certificate = json.loads(Path(given[0]).read_text(encoding="utf-8"))
        hashes = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in given[2:]]
    except (OSError, ValueError, RecursionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        check(certificate)
        for own in hashes:
            need(own == certificate["checkpoint"]["sha256"], f"{given[2]} is another checkpoint")
    except RefusedError as reason:
        print(f"REFUSED: {reason}")
        return 1
    except Exception as error:  # Whatever is missing or of another type is a reason to refuse.
        print(f"REFUSED: malformed ({type(error).__name__}: {error})")
        return 1
    for line in [*certificate["notices"], *(own["words"] for own in certificate["statements"])]:
        print(line)
    print(f"ACCEPTED: each of {len(certificate['statements'])} statements on its own, all together "
          f"with probability at least {certificate['joint_confidence']}")  # fmt: skip
    return 0


def _exit() -> None:
    sys.exit(main())
