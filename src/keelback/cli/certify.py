"""`keelback certify`: what can be promised about the error of one checkpoint."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import Json, app, print_json, provenance_of_command
from keelback.cli.evaluate import require_fit

if TYPE_CHECKING:
    from keelback.certify import Certification


@app.command()
def certify(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors or reference .pth file.")],
    task: Annotated[
        str, typer.Option(help="The task it was trained on: its name, or a file that registers it.")
    ],
    seq_len: Annotated[int | None, typer.Option(help="Sequence length T.")] = None,
    data_seed: Annotated[int | None, typer.Option(help="Seed of a generated task.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where a loaded task's data lie.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Vocabulary file of a text task.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting of the task, NAME=VALUE.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Failure probability of each statement.")] = 0.05,
    attempt: Annotated[
        int,
        typer.Option(
            min=1,
            help="The how manieth configuration this is that is tried on these examples: attempt k "
            "has delta / (k (k + 1)), so that all attempts together have delta.",
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
        bool, typer.Option(help="Train a prior and optimise a PAC-Bayes certificate.")
    ] = True,
    prior_share: Annotated[
        float, typer.Option(help="Share of the training split behind the prior.")
    ] = 0.5,
    prior_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the prior; the paper's by default.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps on the PAC-Bayes bound.")] = 500,
    draws: Annotated[int, typer.Option(help="Monte-Carlo draws behind it.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prior and of all draws.")] = 0,
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="Write what was certified about held-out examples and by PAC-Bayes to this new "
            "file, for keelback-check."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Certify the error of a checkpoint: class bounds, PAC-Bayes, held-out examples.

    Says for each number which classifier and which distribution it is about, and at which
    confidence. Copies of training examples among those held out, and repeated ones, are looked for:
    where loaded data hold any, no certificate is given unless an option says what to do.
    """
    from keelback.bounds import has_flint
    from keelback.certify import Policy, certificate_of, certify_model
    from keelback.data import get_task
    from keelback.errors import InputError
    from keelback.experiments._shared.presets import paper_recipe
    from keelback.files import write_json
    from keelback.models import load_model

    if certificate is not None and certificate.exists():
        raise InputError(f"{certificate} exists already; a certificate is written to a new file")
    if certificate is not None and not has_flint():
        raise InputError("--certificate needs python-flint: pip install 'keelback[certify]'")
    if allow_overlap and drop_overlap:
        raise InputError("--allow-overlap and --drop-overlap exclude each other")
    policy: Policy = "allow" if allow_overlap else "drop" if drop_overlap else "refuse"
    options: dict[str, Any] = {
        "seq_len": seq_len,
        "data_seed": data_seed,
        "data": data,
        "tokenizer": tokenizer,
    }
    for pair in setting or []:
        if "=" not in pair:
            raise InputError(f"--set {pair!r} is not NAME=VALUE")
        name, value = pair.split("=", 1)
        options[name] = value
    chosen = get_task(task, **options)
    model = load_model(checkpoint)
    require_fit(model, chosen.vocab_size, chosen.n_classes, checkpoint, task)
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
        written = certificate_of(
            found, checkpoint=checkpoint, task=chosen, made_by=made_by, seed=seed
        )
        write_json(certificate, written)
    if json:
        named = {"provenance": made_by, "checkpoint": str(checkpoint), "task": chosen.name}
        print_json({**named, **found.as_dict()})
    else:
        _print(found)


def _print(found: "Certification") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for notice in found.notices:
        console.print(notice)
    constants = Table(title="Class constants")
    constants.add_column("constant")
    constants.add_column("measured", justify="right")
    constants.add_column("enclosed", justify="right")
    bounds = found.class_bounds
    outer = bounds.a_posteriori.constants.as_dict()
    for name, value in bounds.a_priori.constants.as_dict().items():
        constants.add_row(name, f"{value:.6g}", f"{outer[name]:.6g}")
    console.print(constants)
    for title, certificate in (
        ("No certificate: the class read off the trained model", bounds.a_priori),
        ("The class that holds it in a grid fixed in advance", bounds.a_posteriori),
    ):
        table = Table(title=f"{title}: ramp risk {certificate.sample_risk:.4f} on the sample")
        table.add_column("error bound")
        table.add_column("log10", justify="right")
        for route, log in certificate.log_risk.items():
            table.add_row(route + (" (vacuous)" if log >= 0 else ""), f"{log / math.log(10):.4f}")
        console.print(table)
    console.print(found.verdict())
