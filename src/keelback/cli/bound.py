"""`keelback bound`: every bound from class constants alone."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import app, print_json
from keelback.cli.options import Json
from keelback.cli.terminal import console

if TYPE_CHECKING:
    from keelback.bounds import BoundSummary, ClassConstants

_RADEMACHER = {
    "published": "selective SSM, published (arXiv 2502.01473)",
    "sharpened": "selective SSM, sharpened",
    "lower": "selective SSM, lower bound",
    "linear_attention": "linear attention",
    "softmax_attention": "softmax attention",
    "rnn": "vanilla RNN",
    "lti": "LTI SSM",
}
_ROUNDING = {
    "outward": "Upper bounds are rounded up, the lower bound down (ball arithmetic).",
    "none": "Approximate, to about ten digits: pip install 'keelback[certify]' to round outward.",
}
_RISK = {"published": "published", "sharpened": "sharpened", "covering": "one cover, sharpened"}


@app.command(light=True)
def bound(
    constants: Annotated[
        Path,
        typer.Option(
            help="File with a JSON object, keys B_u s_A B_A B_B M_B B_C M_C B_q M_q B_w M_w p_lo "
            "p_hi T m d N; e.g. constants.json."
        ),
    ],
    margin: Annotated[
        float, typer.Option(min=0, help="Width of the ramp loss, in units of the logit.")
    ] = 1.0,
    delta: Annotated[
        float, typer.Option(min=0, max=1, help="Failure probability, between 0 and 1.")
    ] = 0.05,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes; 2 means one logit.")] = 2,
    vocab: Annotated[
        int,
        typer.Option(
            min=0, help="Number of trained embedding rows; 0 where the tokens are fixed vectors."
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Bound a class of selective SSMs from its constants: output, Rademacher complexity, risk.

    A risk is a gap: true risk minus empirical ramp risk, for every model of the class at once,
    with probability 1 - delta over the sample. Choose class, margin and delta before the data.
    Numbers are rounded outward where python-flint is installed, and approximate elsewhere.
    """
    from keelback.bounds import ClassConstants, has_flint, outward, summarise

    checked = ClassConstants.from_json(constants)
    evaluate = outward.summarise if has_flint() else summarise
    summary = evaluate(checked, margin=margin, delta=delta, classes=classes, vocab_size=vocab)
    if json:
        print_json({"constants": checked.as_dict(), **summary.as_dict()})
    else:
        _print_table(checked, summary)


def _print_table(constants: "ClassConstants", summary: "BoundSummary") -> None:
    from rich.table import Table

    table = Table(title=f"Bounds at T = {constants.T}, m = {constants.m}, s_A = {constants.s_A:g}")
    table.add_column("bound")
    table.add_column("log10", justify="right")
    table.add_column("value", justify="right")
    numbers: Any = summary.as_dict()
    table.add_row("largest output |z|", *_cells(numbers["output_bound"], ROUND_CEILING))
    table.add_section()
    for name, label in _RADEMACHER.items():
        outward = ROUND_FLOOR if name == "lower" else ROUND_CEILING
        table.add_row(f"Rademacher, {label}", *_cells(numbers["rademacher"][name], outward))
    table.add_section()
    for name, label in _RISK.items():
        vacuous = " (vacuous)" if numbers["risk"][name]["vacuous"] else ""
        table.add_row(f"risk gap, {label}{vacuous}", *_cells(numbers["risk"][name], ROUND_CEILING))
    terminal = console()
    terminal.print(table)
    terminal.print(
        f"Risk gap: true risk minus empirical ramp risk at margin {summary.margin:g}, for every "
        f"model of the class at once, with probability at least 1 - {summary.delta:g}."
    )
    terminal.print(_ROUNDING[summary.rounding])


def _cells(number: dict[str, float | None], outward: str) -> tuple[str, str]:
    """log10 and value of one bound, each rounded outward to the digits shown."""
    log10, value = number["log10"], number["value"]
    if log10 is None:
        return "-inf", "0"
    exact = Decimal(log10)
    if abs(log10) < 1e6:
        exponent = f"{exact.quantize(Decimal('0.0001'), rounding=outward)}"
    else:
        exponent = f"{Context(prec=6, rounding=outward).plus(exact):g}"
    if value is None:
        return exponent, f"10^{exponent}"
    return exponent, f"{Context(prec=4, rounding=outward).plus(Decimal(value)):g}"
