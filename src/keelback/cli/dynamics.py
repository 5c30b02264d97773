"""`keelback dynamics`: one training of the gated SSM, and what its gate learned."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from keelback.cli.app import app, print_json
from keelback.cli.options import LARGEST_SEED, Device, Json, refuse_beside
from keelback.cli.progress import work_progress
from keelback.cli.terminal import console
from keelback.device import chosen_device

if TYPE_CHECKING:
    from rich.console import Console

    from keelback.dynamics import Locality, MajorityVoting
    from keelback.dynamics.descent import GatedHistory, GatedTraining, Source
    from keelback.dynamics.noise import Noise


@app.command()
def dynamics(
    data: Annotated[
        str, typer.Option(help="Pattern of the data, majority or locality.")
    ] = "majority",
    alpha_r: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of tokens with the own class's feature (majority only); default 0.4; e.g. "
            "0.4.",
        ),
    ] = None,
    alpha_c: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of tokens with the other class's feature (majority only); default 0.1; "
            "e.g. 0.1.",
        ),
    ] = None,
    near: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Separation of the own pair in tokens (locality only); default 3; e.g. 3.",
        ),
    ] = None,
    far: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Separation of the other pair in tokens (locality only); default 12; e.g. 12.",
        ),
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="Number of features d.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Length L of a sequence in tokens.")] = 30,
    width: Annotated[int, typer.Option(min=2, help="Number of hidden units m; even.")] = 50,
    samples: Annotated[
        int,
        typer.Option(
            min=2, help="Number of training sequences N; with --fresh, of those in each step."
        ),
    ] = 400,
    test_samples: Annotated[
        int, typer.Option(min=2, help="Number of sequences of the test set.")
    ] = 500,
    noise: Annotated[
        float,
        typer.Option(min=0, help="Standard deviation tau of the noise on every token's features."),
    ] = 0.02,
    noise_family: Annotated[
        str, typer.Option(help="Distribution of the noise: gaussian, student or correlated.")
    ] = "gaussian",
    eta: Annotated[
        float,
        typer.Option(min=1e-38, max=3.4e38, help="Step size eta of the gate and the read-out."),
    ] = 0.5,
    eta_gate: Annotated[
        float | None,
        typer.Option(
            min=1e-38, max=3.4e38, help="Step size of the gate w; default that of --eta; e.g. 0.5."
        ),
    ] = None,
    eta_out: Annotated[
        float | None,
        typer.Option(
            min=1e-38,
            max=3.4e38,
            help="Step size of the read-out W_O; default that of --eta; e.g. 50.",
        ),
    ] = None,
    optimizer: Annotated[str, typer.Option(help="Optimizer: gd, momentum or adam.")] = "gd",
    momentum: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the last change kept by momentum and Adam."),
    ] = 0.9,
    schedule: Annotated[
        str,
        typer.Option(
            help="Schedule of the step sizes: constant; decaying, eta / (1 + epoch / --decay); or "
            "stable, shortened so that step size times measured sharpness is at most --stability."
        ),
    ] = "constant",
    decay: Annotated[
        float,
        typer.Option(
            min=1e-38, max=3.4e38, help="Epochs after which a decaying step size is halved."
        ),
    ] = 1000.0,
    stability: Annotated[
        float,
        typer.Option(
            min=1e-38, max=3.4e38, help="Largest step size times sharpness of a stable schedule."
        ),
    ] = 0.2,
    symmetry: Annotated[
        str,
        typer.Option(
            help="Symmetry of the weights: none; readout, W_O unchanged under exchange of the "
            "classes, so that the read-outs of o_+ and o_- add up to 0; or model, w as well."
        ),
    ] = "none",
    readout_scale: Annotated[
        float, typer.Option(min=0, max=3.4e38, help="Standard deviation of W_O at the start.")
    ] = 0.1,
    epochs: Annotated[
        int, typer.Option(min=1, help="Number of steps of full-batch gradient descent.")
    ] = 400,
    target: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Test loss (hinge, per sequence) whose first epoch is reported."
        ),
    ] = 1e-3,
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of right answers on the test set that --target needs at the same epoch; "
            "default none; e.g. 0.99.",
        ),
    ] = None,
    mixing: Annotated[
        str,
        typer.Option(help="Initial values of W_B and W_C: identity, orthogonal or gaussian."),
    ] = "identity",
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST_SEED, help="Seed, a whole number, of data and initial weights."
        ),
    ] = 0,
    paired: Annotated[
        bool,
        typer.Option(
            "--paired", help="Use every sequence once more, with the two classes exchanged."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Draw new sequences at every step.")
    ] = False,
    population: Annotated[
        bool,
        typer.Option(
            "--population",
            help="Train on the exact mean over all sequences, on the CPU; for locality with "
            "--noise 0.",
        ),
    ] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train the gated SSM of arXiv 2602.12499 once and report what its gate learned.

    The gating vector w starts at zero. Reported are its projections and cosines on the class
    features o_+ and o_- and on every irrelevant one, what the theorem predicts for plain gradient
    descent (constants taken as 1), which of its conditions hold, and the Bayes error under the
    noise.
    """
    from keelback.dynamics.descent import (
        GatedTraining,
        OptimizerName,
        ScheduleName,
        Symmetry,
        train_gated,
    )

    source = _source(paired, fresh, population)
    training = GatedTraining(
        pattern=_pattern(data, alpha_r, alpha_c, near, far, length, dim),
        noise=_noise(noise_family, noise),
        samples=samples,
        source=source,
        width=width,
        step_size=eta,
        epochs=epochs,
        seed=seed,
        test_samples=test_samples,
        target=target,
        stop_at_target=False,
        mixing=_choice("--mixing", mixing, ("identity", "orthogonal", "gaussian")),
        gate_step_size=eta_gate,
        readout_step_size=eta_out,
        optimizer=_choice("--optimizer", optimizer, get_args(OptimizerName)),
        momentum=momentum,
        schedule=_choice("--schedule", schedule, get_args(ScheduleName)),
        decay=decay,
        stability=stability,
        symmetry=_choice("--symmetry", symmetry, get_args(Symmetry)),
        readout_scale=readout_scale,
        target_accuracy=target_accuracy,
    )
    _refuse_idle(training, dynamics)
    with work_progress("dynamics"):
        history = train_gated([training], device=chosen_device(device))[0]
    result = _result(training, history)
    if json:
        print_json(_without_infinities(result))
    else:
        _print(result)
    if history.status == "diverged":
        from keelback.errors import JobError

        raise JobError(
            f"the training diverged by epoch {history.diverged_by}: a parameter is not finite; "
            f"lower --eta, --eta-gate or --eta-out"
        )


def _refuse_idle(training: "GatedTraining", command: Callable[..., None]) -> None:
    """Refuse numbers that this optimizer, schedule or source does not read."""
    if training.optimizer == "gd":
        refuse_beside("--optimizer gd", {"momentum": training.momentum}, command)
    of_schedules = {"decaying": "decay", "stable": "stability"}
    idle = [name for schedule, name in of_schedules.items() if schedule != training.schedule]
    given = {name: getattr(training, name) for name in idle}
    refuse_beside(f"--schedule {training.schedule}", given, command)
    if training.source == "population":
        refuse_beside("--population", {"samples": training.samples}, command)


def _source(paired: bool, fresh: bool, population: bool) -> "Source":
    from keelback.errors import InputError

    asked = {"paired": paired, "fresh": fresh, "population": population}
    chosen = [name for name, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        raise InputError(
            f"--{' and --'.join(chosen)} exclude each other: training data come from one source"
        )
    sources: dict[str, Source] = {"paired": "paired", "fresh": "fresh", "population": "population"}
    return sources[chosen[0]] if chosen else "fixed"


def _pattern(
    data: str,
    alpha_r: float | None,
    alpha_c: float | None,
    near: int | None,
    far: int | None,
    length: int,
    dim: int,
) -> "MajorityVoting | Locality":
    from keelback.dynamics import Locality, MajorityVoting
    from keelback.errors import InputError

    _choice("--data", data, ("majority", "locality"))
    if data == "majority":
        if near is not None or far is not None:
            raise InputError("--near and --far belong to --data locality, not to majority")
        return MajorityVoting(
            0.4 if alpha_r is None else alpha_r, 0.1 if alpha_c is None else alpha_c, length, dim
        )
    if alpha_r is not None or alpha_c is not None:
        raise InputError("--alpha-r and --alpha-c belong to --data majority, not to locality")
    return Locality(3 if near is None else near, 12 if far is None else far, length, dim)


def _noise(family: str, scale: float) -> "Noise":
    from keelback.dynamics.noise import CorrelatedNoise, GaussianNoise, StudentNoise

    families = {"gaussian": GaussianNoise, "student": StudentNoise, "correlated": CorrelatedNoise}
    return families[_choice("--noise-family", family, tuple(families))](scale)


def _choice(option: str, value: str, allowed: tuple[str, ...]) -> Any:
    from keelback.errors import InputError, nearest

    if value not in allowed:
        raise InputError(
            f"{option} is {value!r}; it is one of {', '.join(allowed)}{nearest(value, allowed)}"
        )
    return value


def _result(training: "GatedTraining", history: "GatedHistory") -> dict[str, Any]:
    from dataclasses import asdict

    from keelback.dynamics import bayes_error, conditions, cosines, predicted, projections

    gating = history.gating[-1]
    finite = history.status != "diverged"
    pattern: Any = training.pattern
    ran = int(history.epochs[-1])
    result: dict[str, Any] = {
        "status": history.status,
        "epochs": ran,
        "epochs_to_target": history.epochs_to_target,
        "progress": _finite(history.progress[-1]),
        "train_loss": _finite(history.train_loss[-1]),
        "test_loss": _finite(history.test_loss[-1]),
        "test_accuracy": float(history.test_accuracy[-1]),
        "test_ranking": float(history.test_ranking[-1]),
    }
    for name, measure in (("projections", projections), ("cosines", cosines)):
        found = measure(gating) if finite else None
        result[name] = {
            "o_plus": found.o_plus if found else None,
            "o_minus": found.o_minus if found else None,
            "irrelevant": list(found.irrelevant) if found else [],
        }
    result["predicted"], result["conditions"] = None, []
    if training.plain:
        checks = conditions(
            pattern,
            width=training.width,
            noise=training.noise.scale,
            samples=training.samples if training.source in ("fixed", "paired") else None,
            step_size=training.eta_gate,
            epochs=ran,
        )
        result["predicted"] = asdict(predicted(pattern, training.eta_gate, ran))
        result["conditions"] = [asdict(check) for check in checks]
    result["bayes_error"] = None
    if type(training.noise).__name__ == "GaussianNoise":
        error = bayes_error(pattern, training.noise.scale)
        result["bayes_error"] = {
            "log10_lower": _finite(error.log_lower / math.log(10)),
            "log10_upper": _finite(error.log_upper / math.log(10)),
        }
    return result


def _without_infinities(value: Any) -> Any:
    """The result with nothing in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_infinities(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_infinities(part) for part in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    terminal = console()
    reached = result["epochs_to_target"]
    terminal.print(
        f"{result['epochs']} epochs: train loss {_number(result['train_loss'])}, test loss "
        f"{_number(result['test_loss'])}, test accuracy {result['test_accuracy']:.4f}, "
        f"test ranking {result['test_ranking']:.4f}; "
        + (f"target reached by epoch {reached}" if reached else "target not reached (censored)")
    )
    table = Table(title="the gating vector w")
    for heading in ("", "o_+", "o_-", "irrelevant: least", "mean", "most"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in ("projections", "cosines"):
        row = result[name]
        rest = row["irrelevant"]
        if rest:
            spread = (min(rest), sum(rest) / len(rest), max(rest))
            numbers = (row["o_plus"], row["o_minus"], *spread)
            table.add_row(name, *(f"{number:+.3f}" for number in numbers))
    terminal.print(table)
    _print_theorem(terminal, result)
    error = result["bayes_error"]
    if error is not None and error["log10_upper"] is not None:
        terminal.print(
            f"Bayes error: from 10^{error['log10_lower']:.1f} to 10^{error['log10_upper']:.1f}"
        )


def _print_theorem(terminal: "Console", result: dict[str, Any]) -> None:
    forecast = result["predicted"]
    if forecast is None:
        terminal.print(
            "no prediction: the theorem is about plain gradient descent with one constant step size"
        )
        return
    terminal.print(
        f"theorem, constants taken as 1: {forecast['epochs']:.4g} epochs, "
        f"{forecast['samples']:.4g} samples"
        + (
            f", class projections at least {forecast['class_projection']:.3g}"
            if forecast["class_projection"] is not None
            else ""
        )
    )
    for check in result["conditions"]:
        verdict = "holds" if check["holds"] else "does not hold"
        comparison = f"{check['actual']:g} against {check['required']:.4g}"
        terminal.print(f"  {check['statement']}: {verdict} ({comparison})")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
