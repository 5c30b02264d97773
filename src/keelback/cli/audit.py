"""`keelback audit`: is a model stable, how long does it remember, does it hold beyond training?"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelback.cli.app import Json, app, print_json, provenance_of_command
from keelback.cli.progress import sweep_progress
from keelback.device import chosen_device

if TYPE_CHECKING:
    from keelback.audit import AuditResult


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="A folder, a checkpoint, or a name on the Hub.")],
    text: Annotated[Path | None, typer.Option(help="Text to run on (bundled by default).")] = None,
    tokens: Annotated[Path | None, typer.Option(help="Token ids: .npy, .json or numbers.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json, a folder, a Hub name, or bytes.")
    ] = None,
    length: Annotated[int | None, typer.Option(min=2, help="Tokens in each sequence.")] = None,
    train_length: Annotated[
        int | None, typer.Option(min=1, help="Length it was trained on.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Directions to compare the gates with: .npy, one a row.")
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="How many sequences to run.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (cuda where there is).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report and data.")] = None,
    json: Json = False,
) -> None:
    """Measure a model's state-space layers on a text, and say what was found."""
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
    loaded = load_any_model(model)
    hush_transformers()
    ids, label = read_input(loaded, text=text, tokens=tokens, tokenizer=tokenizer)
    if length is None:
        length = default_length(len(ids), train_length or train_length_of(loaded.model))
    with _folder_for(out), sweep_progress("audit") as progress:
        result = run_audit(
            loaded.model.to(device),
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


def hush_transformers() -> None:
    """Keep its advice on kernels off the terminal: Mamba's scan is ours here, others it has."""
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.set_verbosity_error()


def _require_drawable(out: Path) -> None:
    from keelback.errors import InputError
    from keelback.report._files import require_report_extra

    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, which is a file; give a folder")
    require_report_extra()


@contextmanager
def _folder_for(out: Path | None) -> Iterator[None]:
    """Refuse a folder that cannot be written to before the work; leave no new one if it fails."""
    from keelback.report._files import writable_directory

    fresh = out is not None and not out.exists()
    if out is not None:
        writable_directory(out)
    try:
        yield
    except BaseException:
        if out is not None and fresh:
            with suppress(OSError):
                out.rmdir()
        raise


def _write(result: "AuditResult", out: Path) -> None:
    from keelback.report import write_report
    from keelback.report.audit import audit_outcome

    result.write(out)
    record = provenance_of_command()
    page = write_report([audit_outcome(result)], out, record)
    print(f"report: {page}", file=sys.stderr)


def _show(result: "AuditResult") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for finding in result.findings:
        console.print(
            f"[bold]{finding.severity:>8}[/bold]  {escape(finding.statement)} "
            f"{escape(finding.evidence)}"
        )
    table = Table()
    table.add_column("layer", overflow="fold")
    for heading in ("kind", "abscissa", "delta", "horizon", "99 %", "growth"):
        table.add_column(heading, no_wrap=True)
    for row in result.layers.to_dicts():
        table.add_row(
            escape(row["name"]),
            row["kind"],
            *(
                f"{row[key]:.3g}"
                for key in (
                    "spectral_abscissa",
                    "delta_median",
                    "horizon_median",
                    "horizon_p99",
                    "state_growth_median",
                )
            ),
        )
    console.print(table)
    advice = list(dict.fromkeys(f.advice for f in result.findings if f.advice))
    if advice:
        console.print("try: " + escape("; ".join(advice)))
