"""An option that would change nothing is refused, whatever the command."""

from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("command", "idle", "beside"),
    [
        ("repair m --out o --undo --target-length 5", "--target-length", "--undo"),
        ("repair m --out o --undo --force", "--force", "--undo"),
        ("repair m --out o --undo --text t", "--text", "--undo"),
        (
            "repair m --out o --target-length 5 --search shared --evaluations 3",
            "--evaluations",
            "--search shared",
        ),
        ("bench scan --memory --repeats 3", "--repeats", "--memory"),
        ("bench scan --memory --dtype bfloat16", "--dtype", "--memory"),
        ("bench scan --memory --without huggingface_loop", "--without", "--memory"),
        ("bench scan --scaling --peer mambapy_pscan", "--peer", "--scaling"),
        ("bench monitor --cost --seeds 5", "--seeds", "--cost"),
        ("bench monitor --cost --out o", "--out", "--cost"),
        ("bench parallel --only scan --layers 3", "--layers", "--only scan"),
        ("bench parallel --only training --length 100", "--length", "--only training"),
        ("dynamics --momentum 0.5", "--momentum", "--optimizer gd"),
        ("dynamics --decay 3", "--decay", "--schedule constant"),
        ("dynamics --schedule decaying --stability 3", "--stability", "--schedule decaying"),
        (
            "dynamics --population --noise 0 --data locality --samples 10",
            "--samples",
            "--population",
        ),
        ("certify c --task majority --no-pac-bayes --draws 3", "--draws", "--no-pac-bayes"),
        ("certify c --kind language --no-pac-bayes", "--no-pac-bayes", "--kind language"),
        ("certify c --kind language --set a=b", "--set", "--kind language"),
        ("certify c --task majority --first 3", "--first", "--kind task"),
    ],
)
def test_it_is_named_with_what_makes_it_idle(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    idle: str,
    beside: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*command.split())
    said = f"error: {idle} has no effect beside {beside}; leave one of them out\n"
    assert (code, out, err) == (2, "", said)
    assert list(tmp_path.iterdir()) == []
