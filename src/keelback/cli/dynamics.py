"""`keelback dynamics`: one training of the gated SSM, and what its gate learned."""

import math
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from keelback.cli.app import Json, app, print_json
from keelback.device import chosen_device

if TYPE_CHECKING:
    from keelback.dynamics import Locality, MajorityVoting
    from keelback.dynamics.descent import GatedHistory, GatedTraining, Source
    from keelback.dynamics.noise import Noise


@app.command()
def dynamics(
    data: Annotated[str, typer.Option(help="majority or locality.")] = "majority",
    alpha_r: Annotated[
        float | None, typer.Option(help="Majority: share of own-class tokens (0.4).")
    ] = None,
    alpha_c: Annotated[
        float | None, typer.Option(help="Majority: share of other-class tokens (0.1).")
    ] = None,
    near: Annotated[
        int | None, typer.Option(help="Locality: separation of the own pair (3).")
    ] = None,
    far: Annotated[
        int | None, typer.Option(help="Locality: separation of the other pair (12).")
    ] = None,
    dim: Annotated[int, typer.Option(help="Features d.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens in a sequence, L.")] = 30,
    width: Annotated[int, typer.Option(help="Hidden units m; even.")] = 50,
    samples: Annotated[
        int, typer.Option(help="Training sequences N; with --fresh, sequences a step.")
    ] = 400,
    test_samples: Annotated[int, typer.Option(help="Sequences of the test set.")] = 500,
    noise: Annotated[float, typer.Option(help="Standard deviation tau of the token noise.")] = 0.02,
    noise_family: Annotated[
        str, typer.Option(help="gaussian, student or correlated.")
    ] = "gaussian",
    eta: Annotated[float, typer.Option(help="Step size of the gate and the read-out.")] = 0.5,
    eta_gate: Annotated[
        float | None, typer.Option(help="Step size of the gate w (that of --eta).")
    ] = None,
    eta_out: Annotated[
        float | None, typer.Option(help="Step size of the read-out W_O (that of --eta).")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="gd, momentum or adam.")] = "gd",
    momentum: Annotated[
        float, typer.Option(help="Share of the last change kept by momentum and Adam.")
    ] = 0.9,
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the step sizes: constant; decaying, eta / (1 + epoch / --decay); or stable, "
            "shortened so that step size times measured sharpness is at most --stability."
        ),
    ] = "constant",
    decay: Annotated[
        float, typer.Option(help="Epochs after which a decaying step size is halved.")
    ] = 1000.0,
    stability: Annotated[
        float, typer.Option(help="Largest step size times sharpness of a stable schedule.")
    ] = 0.2,
    symmetry: Annotated[
        str,
        typer.Option(
            help="none; readout, W_O unchanged under exchange of the classes, so that the "
            "read-outs of o_+ and o_- add up to 0; or model, w as well."
        ),
    ] = "none",
    readout_scale: Annotated[
        float, typer.Option(help="Standard deviation of W_O at the start.")
    ] = 0.1,
    epochs: Annotated[int, typer.Option(help="Steps of full-batch gradient descent.")] = 400,
    target: Annotated[float, typer.Option(help="Test loss whose first epoch is reported.")] = 1e-3,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Test accuracy that --target needs at the same epoch.")
    ] = None,
    mixing: Annotated[
        str, typer.Option(help="W_B and W_C: identity, orthogonal or gaussian.")
    ] = "identity",
    seed: Annotated[int, typer.Option(help="Of data and initial weights.")] = 0,
    paired: Annotated[
        bool, typer.Option("--paired", help="Repeat every sequence under exchanged classes.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Draw new sequences at every step.")
    ] = False,
    population: Annotated[
        bool,
        typer.Option(
            "--population",
            help="Locality with --noise 0: the exact mean over all sequences, on the CPU.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
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
    history = train_gated([training], device=chosen_device(device))[0]
    result = _result(training, history)
    if json:
        print_json(result)
    else:
        _print(result)
    if history.status == "diverged":
        from keelback.errors import JobError

        raise JobError(
            f"the training diverged by epoch {history.diverged_by}: a parameter is not finite; "
            f"lower --eta, --eta-gate or --eta-out"
        )


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


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    reached = result["epochs_to_target"]
    console.print(
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
    console.print(table)
    _print_theorem(result)
    error = result["bayes_error"]
    if error is not None and error["log10_upper"] is not None:
        console.print(
            f"Bayes error: from 10^{error['log10_lower']:.1f} to 10^{error['log10_upper']:.1f}"
        )


def _print_theorem(result: dict[str, Any]) -> None:
    forecast = result["predicted"]
    if forecast is None:
        print(
            "no prediction: the theorem is about plain gradient descent with one constant step size"
        )
        return
    print(
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
        print(f"  {check['statement']}: {verdict} ({comparison})")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
