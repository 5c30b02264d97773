"""`keelback certify`: what can be promised about the error of one checkpoint."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import app, print_json, provenance_of_command
from keelback.cli.certify_language import certify_text, write_certificate
from keelback.cli.evaluate import require_fit, task_of_options
from keelback.cli.options import (
    LARGEST_SEED,
    Checkpoint,
    DataPath,
    DataSeed,
    Json,
    SeqLenOfTask,
    TaskSettings,
    TokenizerFile,
    refuse_beside,
)
from keelback.cli.progress import work_progress
from keelback.cli.terminal import console

if TYPE_CHECKING:
    from keelback.certify import Certification


class Kind(StrEnum):
    """What is certified."""

    task = "task"
    language = "language"


@app.command()
def certify(
    checkpoint: Checkpoint,
    task: Annotated[
        str | None,
        typer.Option(
            help="Name of the task that the checkpoint was trained on; no default, needed unless "
            "--kind is language; e.g. majority."
        ),
    ] = None,
    kind: Annotated[
        Kind,
        typer.Option(
            help="What is certified: a classifier on a task, or a language model over bytes or "
            "tokens, as keelback compress writes it."
        ),
    ] = Kind.task,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Documents of a certificate of kind language: a text file, a folder of text "
            "files, or a file of reviews (.parquet or .csv); may be repeated; no default; "
            "e.g. reviews.parquet."
        ),
    ] = None,
    training_text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Documents that the language model was trained on, if they are others than "
            "--text: copies of them are looked for, and the bound is smaller, as it need not grow "
            "with the size of the model's file; may be repeated; by default it grows with that "
            "size; e.g. train.parquet."
        ),
    ] = None,
    seq_len: SeqLenOfTask = None,
    data_seed: DataSeed = None,
    data: DataPath = None,
    tokenizer: TokenizerFile = None,
    setting: TaskSettings = None,
    delta: Annotated[
        float,
        typer.Option(min=0, max=1, help="Failure probability of each statement, between 0 and 1."),
    ] = 0.05,
    attempt: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of the attempt on these examples, this one included: attempt k may fail "
            "with probability delta / (k (k + 1)), all attempts together with delta.",
        ),
    ] = 1,
    allow_overlap: Annotated[
        bool,
        typer.Option(
            "--allow-overlap", help="Count copies of training examples as new ones, and say so."
        ),
    ] = False,
    drop_overlap: Annotated[
        bool,
        typer.Option(
            "--drop-overlap", help="Leave out copies of training examples and repeated examples."
        ),
    ] = False,
    pac_bayes: Annotated[
        bool,
        typer.Option(
            "--pac-bayes/--no-pac-bayes",
            help="Train a prior (a model on a part of the data) and optimise a PAC-Bayes "
            "certificate, or leave that out.",
        ),
    ] = True,
    prior_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the training split, between 0 and 1, that the prior is trained on.",
        ),
    ] = 0.5,
    prior_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of epochs of the prior's training; by default that of arXiv 2502.01473; "
            "e.g. 40.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Number of gradient steps on the PAC-Bayes bound.")
    ] = 500,
    draws: Annotated[
        int, typer.Option(min=1, help="Number of Monte-Carlo draws behind the PAC-Bayes bound.")
    ] = 2000,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="Seed, a whole number, of the split, the prior, all draws and --draw.",
        ),
    ] = 0,
    first: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of documents of --text that are counted, from the first on; all by "
            "default; e.g. 2000.",
        ),
    ] = None,
    draw: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Number of documents drawn at random from --text, with replacement, from --seed: "
            "the certificate is then about a document drawn from that text, and need not assume "
            "that its documents are independent; by default every document is counted once; "
            "e.g. 5000.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device to run a language model on, cpu or cuda; by default cuda where there is a "
            "GPU; e.g. cpu.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="New file for the certificate of held-out examples and of PAC-Bayes, which "
            "keelback-check checks; by default none; e.g. certificate.json."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Certify the error of a checkpoint: class bounds, PAC-Bayes, held-out examples, or text.

    Bounds the error on new data, with a confidence of 1 - DELTA. Says for each number which
    classifier and which distribution it is about. Held-out examples are searched for copies of
    training examples and for repeated ones: if loaded data have any, no certificate is given
    unless --allow-overlap or --drop-overlap says what to do.
    """
    from keelback.certify import Policy, certificate_of, certify_model
    from keelback.errors import InputError
    from keelback.experiments._shared.presets import paper_recipe
    from keelback.extras import require_extra
    from keelback.files import digest_of, require_new_file
    from keelback.models import WEIGHTS_FILE, load_model

    if certificate is not None:
        require_new_file(certificate, "--certificate", "a certificate")
        require_extra("certify", "--certificate")
    if allow_overlap and drop_overlap:
        raise InputError("--allow-overlap and --drop-overlap exclude each other")
    policy: Policy = "allow" if allow_overlap else "drop" if drop_overlap else "refuse"
    of_pac_bayes = {
        "prior_share": prior_share, "prior_epochs": prior_epochs, "steps": steps, "draws": draws,
    }  # fmt: skip
    if kind is Kind.language:
        of_task: dict[str, Any] = {
            "task": task, "seq_len": seq_len, "data_seed": data_seed, "data": data,
            "tokenizer": tokenizer, "setting": setting, "pac_bayes": pac_bayes,
        }  # fmt: skip
        if draw is None:
            of_task["seed"] = seed
        refuse_beside("--kind language", {**of_task, **of_pac_bayes}, certify)
        certify_text(
            checkpoint,
            text or [],
            training_text or [],
            first=first,
            draw=draw,
            seed=seed,
            delta=delta,
            attempt=attempt,
            policy=policy,
            device=device,
            certificate=certificate,
            json=json,
        )
        return
    of_language = {
        "text": text, "training_text": training_text, "first": first, "draw": draw,
        "device": device,
    }  # fmt: skip
    refuse_beside("--kind task", of_language, certify)
    if task is None:
        raise InputError("--task is missing: name the task that the checkpoint was trained on")
    if not pac_bayes:
        refuse_beside("--no-pac-bayes", of_pac_bayes, certify)
    chosen = task_of_options(task, seq_len, data_seed, data, tokenizer, setting)
    file = checkpoint / WEIGHTS_FILE if checkpoint.is_dir() else checkpoint
    read = digest_of(file) if file.is_file() else None
    model = load_model(checkpoint)
    require_fit(model, chosen.vocab_size, chosen.n_classes, checkpoint, task)
    with work_progress("certify"):
        found = certify_model(
            model,
            chosen,
            delta=delta,
            attempt=attempt,
            overlap=policy,
            pac_bayes=pac_bayes,
            prior_share=prior_share,
            prior_recipe=paper_recipe(task, prior_epochs),
            steps=steps,
            draws=draws,
            seed=seed,
        )
    made_by = provenance_of_command()
    if certificate is not None:
        written = certificate_of(found, checkpoint=file, task=chosen, made_by=made_by, seed=seed)
        write_certificate(certificate, written, of=read)
    if json:
        named = {"provenance": made_by, "checkpoint": str(checkpoint), "task": chosen.name}
        print_json({**named, **found.as_dict()})
    else:
        _print(found)


def _print(found: "Certification") -> None:
    from rich.table import Table

    from keelback.certify._certification import log10_shown

    terminal = console()
    for notice in found.notices:
        terminal.print(notice)
    constants = Table(title="Class constants")
    constants.add_column("constant")
    constants.add_column("measured", justify="right")
    constants.add_column("enclosed", justify="right")
    bounds = found.class_bounds
    outer = bounds.a_posteriori.constants.as_dict()
    for name, value in bounds.a_priori.constants.as_dict().items():
        constants.add_row(name, f"{value:.6g}", f"{outer[name]:.6g}")
    terminal.print(constants)
    for title, certificate in (
        ("No certificate: the class read off the trained model", bounds.a_priori),
        ("The class that holds it in a grid fixed in advance", bounds.a_posteriori),
    ):
        table = Table(title=f"{title}: ramp risk {certificate.sample_risk:.4f} on the sample")
        table.add_column("error bound")
        table.add_column("log10", justify="right")
        for route, log in certificate.log_risk.items():
            table.add_row(route + (" (vacuous)" if log >= 0 else ""), log10_shown(log))
        terminal.print(table)
    for sentence in found.sentences():
        terminal.print(f"- {sentence}")
