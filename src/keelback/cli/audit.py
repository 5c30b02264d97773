"""`keelback audit`: is a model stable, how long does it remember, does it hold beyond training?"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelback.cli.app import app, print_json, provenance_of_command
from keelback.cli.options import (
    DeviceOrBest,
    Ignored,
    Json,
    ModelName,
    Text,
    TokenizerName,
    Tokens,
    TrainLength,
)
from keelback.cli.progress import sweep_progress, work_progress
from keelback.cli.terminal import console
from keelback.device import chosen_device
from keelback.errors import printable

if TYPE_CHECKING:
    from keelback.audit import AuditResult, LoadedModel


@app.command()
def audit(
    model: ModelName,
    text: Text = None,
    tokens: Tokens = None,
    tokenizer: TokenizerName = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Length of each sequence in tokens; by default 16 training lengths, but usually "
            "at most 4096 and at most the text; e.g. 4096.",
        ),
    ] = None,
    train_length: TrainLength = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="File of directions in the layers' input to compare the gates with, .npy with one "
            "direction per row; by default none; e.g. directions.npy."
        ),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="Number of sequences of the text to run the model on.")
    ] = 1,
    device: DeviceOrBest = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write a report (report.html), figures and all numbers to; by default "
            "nothing is written; e.g. audit."
        ),
    ] = None,
    ignore: Ignored = None,
    json: Json = False,
) -> None:
    """Measure a model's state-space layers on a text, and say what was found.

    Answers whether every state decays, how long the layers remember, from which position on the
    length raises the loss, which tokens the gates let through, and whether half precision is
    enough. Nothing is trained, and the model is not changed.
    """
    from keelback.audit import audit as run_audit
    from keelback.audit import (
        default_length,
        load_any_model,
        read_features,
        read_input,
        train_length_of,
    )

    if out is not None:
        _require_drawable(out)
    device = chosen_device(device)
    directions = None if features is None else read_features(features)
    with work_progress("audit, loading"):
        loaded = load_any_model(model, ignore=ignore or (), device=device)
    hush_transformers()
    say_of_loading(loaded)
    ids, label = read_input(loaded, text=text, tokens=tokens, tokenizer=tokenizer)
    if length is None:
        length = default_length(len(ids), train_length or train_length_of(loaded.model))
    with _folder_for(out), sweep_progress("audit") as progress:
        result = run_audit(
            loaded.model,
            ids[: length * sequences] if length * sequences <= len(ids) else ids,
            train_length=train_length,
            length=length,
            features=directions,
            label=label,
            name=loaded.name,
            progress=progress,
        )
        if out is not None:
            _write(result, out)
    if json:
        print_json(result.to_json())
    else:
        _show(result)


def say_of_loading(loaded: "LoadedModel") -> None:
    """On stderr: what was let pass, warnings and notes, and where the weights are."""
    if loaded.unused:
        print(printable(f"not used by the model: {', '.join(loaded.unused)}"), file=sys.stderr)
    for remark in loaded.remarks:
        print(printable(f"transformers: {remark}"), file=sys.stderr)
    for note in loaded.notes:
        print(printable(note), file=sys.stderr)
    if loaded.streamed:
        print("larger than memory: weights are read block by block from disk", file=sys.stderr)


def hush_transformers() -> None:
    """Keep its advice on kernels off the terminal: Mamba's scan is ours here, others it has."""
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.set_verbosity_error()


def _require_drawable(out: Path) -> None:
    from keelback.errors import InputError
    from keelback.report._files import require_own_page, require_report_extra

    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, which is a file; give a folder")
    require_report_extra()
    require_own_page(out)


@contextmanager
def _folder_for(out: Path | None) -> Iterator[None]:
    """Refuse a folder that cannot be written to before the work; leave no new one if it fails."""
    from keelback.report._files import made_writable

    if out is None:
        yield
        return
    with made_writable(out):
        yield


def _write(result: "AuditResult", out: Path) -> None:
    from keelback.files import adding_to
    from keelback.report import write_report
    from keelback.report.audit import audit_outcome

    record = provenance_of_command()
    with adding_to(out) as partial:
        result.write(partial)
        page = write_report([audit_outcome(result)], partial, record)
    print(f"report: {out / page.name}", file=sys.stderr)


_LEGEND = (
    "abscissa: below 0, every state decays. delta: step size, median. horizon: tokens until a "
    "state falls to 1/e, median over the layer's rates. 99 %: 99 % of the rates have at most this "
    "horizon. growth: state norm beyond the training length, divided by the norm in contexts no "
    "longer than in training, median."
)


def _show(result: "AuditResult") -> None:
    from rich.markup import escape
    from rich.table import Table

    terminal = console(highlight=False)
    for finding in result.findings:
        terminal.print(
            f"[bold]{finding.severity:>8}[/bold]  {escape(printable(finding.statement))} "
            f"{escape(printable(finding.evidence))}"
        )
    table = Table()
    table.add_column("layer", overflow="fold")
    for heading in ("kind", "abscissa", "delta", "horizon", "99 %", "growth"):
        table.add_column(heading, no_wrap=True)
    for row in result.layers.to_dicts() if result.measures else ():
        table.add_row(
            escape(printable(row["name"])),
            escape(printable(row["kind"])),
            *(
                _three_digits(row[key])
                for key in (
                    "spectral_abscissa",
                    "delta_median",
                    "horizon_median",
                    "horizon_p99",
                    "state_growth_median",
                )
            ),
        )
    if result.measures:
        terminal.print(table)
        terminal.print(_LEGEND, style="dim")
    for missed in result.not_audited:
        terminal.print(f"not audited: {escape(printable(f'{missed.what}: {missed.reason}'))}")
    advice = list(dict.fromkeys(f.advice for f in result.findings if f.advice))
    if advice:
        terminal.print("try: " + escape(printable("; ".join(advice))))


def _three_digits(value: float) -> str:
    """A number for the table: thousands in full, as in the findings, other numbers rounded."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
