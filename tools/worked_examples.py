"""Numbers of the worked examples on the pages about bounds and about how a gate learns.

    python tools/worked_examples.py --out results/experiments/worked-examples/results.json

The bounds are of the class that the docstrings of `keelback.bounds` use. The first steps of the
gate are those that `proofs/MajorityStep.v` and `proofs/LocalityStep.v` prove, as fractions.
"""

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import result_file
from keelback.bounds import (
    ClassConstants,
    log_covering_gap,
    log_output_bound,
    lower_log_rademacher,
    published_log_rademacher,
    selective_blocks,
    sharpened_log_rademacher,
)
from keelback.bounds._sharpened import step_sums
from keelback.dynamics import Locality, MajorityVoting

EXAMPLE = ClassConstants(
    B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1, B_w=1, M_w=2,
    p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4,
)  # fmt: skip
PARAMETERS = ("w", "W_B", "W_C", "A", "p", "q")
VOTES = ((12, 3), (6, 3), (23, 3))
PAIRS = ((5, 12), (3, 12), (2, 12), (2, 3), (1, 12))
LENGTH, DIM = 20, 32
Row = Mapping[str, float | str]


def constants() -> Iterator[Row]:
    """The constants of the class, those of one value together, and the largest step."""
    together: dict[float, list[str]] = defaultdict(list)
    for name, value in EXAMPLE.as_dict().items():
        together[value].append(name)
    for value, names in sorted(together.items(), reverse=True):
        yield {"constants": ", ".join(names), "value": value}
    yield {"constants": "D, the largest step", "value": math.exp(EXAMPLE.log_largest_step)}


def sums() -> Iterator[Row]:
    """The sums over steps and the output bound, for three signs of the abscissa."""
    for s_A, T in itertools.product((-0.1, 0.0, 0.01), (100, 1000)):
        own = replace(EXAMPLE, s_A=s_A, T=T)
        found = step_sums(own)
        first = math.exp(found.log_output)
        yield {
            "s_A": s_A,
            "T": T,
            "S1 bound": first,
            "S2 bound": first * math.exp(found.log_decaying),
            "S3 bound": first * math.exp(found.log_absolute),
            "output bound": math.exp(log_output_bound(own)),
        }


def sensitivities() -> Iterator[Row]:
    """How far the output moves if one parameter moves by the radius of its set."""
    bound = math.exp(log_output_bound(EXAMPLE))
    for name, block in zip(PARAMETERS, selective_blocks(EXAMPLE), strict=True):
        share = math.exp(block.log_reach)
        yield {"parameter": name, "share": share, "bound on the move": share * bound}


def complexity() -> Iterator[Row]:
    """The bounds on complexity, and the risk that one cover gives, by the number of examples."""
    for m in (1_000, 20_000, 1_000_000):
        own = replace(EXAMPLE, m=m)
        yield {
            "m": m,
            "published bound": math.exp(published_log_rademacher(own)),
            "sharpened bound": math.exp(sharpened_log_rademacher(own)),
            "lower": math.exp(lower_log_rademacher(own)),
            "covering bound": math.exp(log_covering_gap(own, margin=1.0, delta=0.05)),
        }


def votes(length: int, dim: int, own: int, other: int) -> Row:
    """The first step of w under majority voting, in units of eta A."""
    n, triples = own + other, length * (length - 1) * (length - 2)
    apart = range(1, length)
    kappa = sum((Fraction(s - 1, 2 ** (s + 1)) * (length - s) for s in apart), Fraction(0))
    lost = 2 * kappa * Fraction((n - 1) * (n - 2), triples)
    of_each = Fraction(length - n, dim - 2)
    irrelevant = -kappa * Fraction((own - other) * (n - 1), 2 * length * triples) * of_each
    return {
        "own": own,
        "other": other,
        "lost": float(lost),
        "class step": float(Fraction(own - other, 8 * length) * (1 - lost)),
        "irrelevant step": float(irrelevant),
    }


def pairs(length: int, dim: int, near: int, far: int) -> Row:
    """The first step of w on an irrelevant feature under locality, in units of eta (a_+ - a_-)."""
    placed = [tuple(pair) for pair in Locality(near, far, length, dim).placements.tolist()]
    inside_near = _mean([_free(i, near, (j, j + far)) for i, j in placed])
    inside_far = _mean([_free(j, far, (i, i + near)) for i, j in placed])
    excess = inside_near / 2**near - inside_far / 2**far
    step = -excess / (8 * length * (dim - 2))
    return {
        "near": near,
        "far": far,
        "inside near": float(inside_near),
        "inside far": float(inside_far),
        "excess": float(excess),
        "step": float(step),
        "gate": "closes" if step < 0 else "opens" if step > 0 else "stays",
    }


def _free(start: int, apart: int, taken: Sequence[int]) -> int:
    """The positions inside a pair that no token of the other pair has."""
    return sum(place not in taken for place in range(start + 1, start + apart))


def _mean(counts: Sequence[int]) -> Fraction:
    return Fraction(sum(counts), len(counts))


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result_file.add_options(options)
    return options


def main() -> None:
    given = parser().parse_args()
    record = result_file.started(given)
    voting = MajorityVoting(0.4, 0.1)
    found = {
        "constants": list(constants()),
        "sums": list(sums()),
        "sensitivities": list(sensitivities()),
        "complexity": list(complexity()),
        "votes": [votes(voting.length, voting.dim, *counts) for counts in VOTES],
        "pairs": [pairs(LENGTH, DIM, *apart) for apart in PAIRS],
    }
    result_file.write(given, record, found)


if __name__ == "__main__":
    main()
