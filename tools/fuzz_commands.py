"""Try every command on generated input, and hold it to what the command line promises.

    python tools/fuzz_commands.py --inputs 600 --out results/benchmarks/fuzz_commands.json

Each input is a command that works, with one to three of its options, arguments or files replaced:
options by values that Hypothesis draws from their type, files by damaged copies. Every input runs
in a child process and a fresh folder. It must end with 0, 1, 2 or, where it works on after some
seconds and gets the signal of Ctrl-C, with 130; without a traceback, with one line of error at
most and one exactly after 1 and 2, without raw control characters on stdout or stderr, and with
nothing left that is half written; after 2, with nothing new at all.
"""

import argparse
import contextlib
import faulthandler
import importlib
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import fuzz_materials
import result_file
from keelback.cli.app import main
from keelback.cli.parameters import Parameter, commands

SECONDS, SECONDS_TO_STOP = 4.5, 30.0
MEMORY = 6 * 2**30

TRAIN = "train --seq-len 6 --epochs 1"
FEW = "--set task_settings.n_train=32 --set task_settings.n_test=32"
SCORED = "--task majority --seq-len 6 --set n_train=32 --set n_test=32"
REVIEWS = "--task imdb --data {reviews} --tokenizer {vocab.txt} --seq-len 6"
LANGUAGE = "{model} --text {text.txt} --tokenizer bytes"
SWEEP = "--seeds 1 --workers 1 --quick --no-report --out {new}"

WORKING = (
    f"{TRAIN} --task majority --out {{new}} {FEW}",
    f"{TRAIN} {REVIEWS} --out {{new}}",
    f"{TRAIN} --task majority --out {{sweep}} {FEW}",
    f"evaluate {{classifier.safetensors}} {SCORED}",
    f"evaluate {{classifier.pth}} {SCORED}",
    f"evaluate {{classifier.safetensors}} {REVIEWS}",
    "dynamics --epochs 3 --samples 8 --test-samples 8",
    "dynamics --data locality --epochs 3 --samples 8 --test-samples 8",
    "byte-lm --data {reviews} --out {new} --set steps=1 --set seq_len=4 --set d_model=16 "
    "--set batch=2 --multiple 2",
    "compress {model} --text {text.txt} --out {new} --steps 1 --batch 1 --window 4 --context 2",
    f"audit {LANGUAGE} --length 32",
    f"audit {LANGUAGE} --length 32 --out {{new}}",
    "audit {model} --tokens {ids.npy} --length 32 --features {features.npy}",
    "audit {model} --tokens {ids.json} --length 32",
    "audit {model} --tokens {ids.txt} --length 32",
    f"repair {LANGUAGE} --target-length 32 --train-length 8 --out {{new}} --evaluations 2",
    "bound --constants {constants.json}",
    f"certify {{classifier.safetensors}} {SCORED} --steps 2 --draws 2 --prior-epochs 1",
    f"certify {{classifier.pth}} {SCORED} --no-pac-bayes",
    "list",
    "list --plugin {plugin.py}",
    f"reproduce length-independence --task majority --seq-len 6 --set epochs=1 {SWEEP}",
    f"reproduce majority-voting {SWEEP}",
    "runs {sweep}",
    "runs {sweep} --where seed=1 --sort seed --columns all",
    "runs {sweep} --export {new}.csv",
    "runs {sweep} --export {new}.parquet --history",
    "report {sweep} --report-to {new}",
    "watch {sweep} --once",
    "watch {sweep} --json",
    "doctor",
    "bench scan --repeats 1 --shape 1,8,4,2 --without huggingface_loop",
    "bench audit --layers 1 --d-model 16 --length 32",
    "bench call --repeats 1 --shape 1,4,2,2 --operator selective_scan",
    "bench conv --repeats 1 --shape 1,8,4",
    "bench delta --repeats 1 --shape 1,8,2,4,4,1 --decay head",
    "bench decode --repeats 1 --batch 1 --channels 4 --state 2",
    "bench dynamics --repeats 1 --replicas 2 --epochs 2",
    "bench monitor --seeds 1",
    "bench parallel --processes 2 --only scan --length 8 --channels 2",
    "bench families --family mamba",
    "bench family-speed --family mamba --d-model 256 --length 4 --new-tokens 2 --repeats 1",
    "bench calibration",
    "bench ssd --repeats 1 --shape 1,8,2,4,4,1",
    "bench sweep --seq-len 6 --seeds 1 --epochs 1 --empty-runs 2",
    "bench transformers --length 8 --layers 1 --d-model 16 --without transformers",
)
"""Commands that work and are done soon; {x} is a file of `fuzz_materials`, {new} is not there."""

WHOLE = st.one_of(
    st.integers(-3, 40), st.sampled_from([2**31, 2**32 - 1, 2**63, -(2**63), 10**12, 10**30])
).map(str)
REAL = st.one_of(
    st.floats().map(repr), st.sampled_from(["nan", "-inf", "1e300", "5e-324", "-0.0", "1e-320"])
)
WORDS = (
    ["", " ", "x", "majority", "imdb", "cuda", "all", "a=b", "=", "-1", "None", "1,2,3", "0,0,0,0"],
    ["recipe.batch_size=0", "model.d_model=-1", "task_settings.n_train=1e9", "seq_len>abc"],
    ["\x1b[31mred", "\u202eabc", "%s%s", "{}", "é" * 300, "..x"],
)
STRANGE_TEXT = st.one_of(st.text(max_size=12), *map(st.sampled_from, WORDS)).map(
    lambda text: text.translate({0: None, ord("/"): "|"}).encode("utf-8", "ignore").decode()
)
PATHS = st.one_of(
    st.sampled_from(["{new}", "{text.txt}", "{model}", "{sweep}", "{ids.npy}", "{constants.json}"]),
    st.sampled_from(["/dev/null", "/dev/full", "no/such/folder", ".", "", "~", "a" * 300]),
)


IMPORTED = (
    "keelback.models", "keelback.audit", "keelback.certify", "keelback.experiments",
    "keelback.report", "keelback.benchmarks", "polars", "matplotlib.figure", "plotly.graph_objects",
    "transformers.models.mamba.modeling_mamba", "jinja2", "ray",
)  # fmt: skip


@dataclass
class Found:
    """What came of the inputs."""

    commands: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)


def value(parameter: Parameter) -> st.SearchStrategy[str]:
    """Values for an option or argument: mostly of its type, some of any kind."""
    own = {int: WHOLE, float: REAL, Path: PATHS}.get(parameter.kind, STRANGE_TEXT)
    if parameter.name == "model":
        own = PATHS
    return st.one_of(own, own, own, STRANGE_TEXT)


@st.composite
def inputs(draw: st.DrawFn, known: dict[str, list[Parameter]]) -> tuple[str, list[str], int | None]:
    """A command, its arguments, and a seed for the damage to one of its files, if any."""
    first, *arguments = shlex.split(draw(st.sampled_from(WORKING)))
    command = f"{first} {arguments.pop(0)}" if first == "bench" else first
    damage = None
    if any(word.startswith("{") and word != "{new}" for word in arguments):
        damage = draw(st.one_of(st.none(), st.integers(0, 2**32)))
    for _ in range(draw(st.integers(0 if damage is not None else 1, 3))):
        parameter = draw(st.sampled_from(known[command]))
        option = parameter.name
        if parameter.flags:
            arguments.append(draw(st.sampled_from(parameter.flags)))
        elif parameter.is_argument:
            arguments[:1] = [draw(value(parameter))]
        elif option in arguments and draw(st.booleans()):
            arguments[arguments.index(option) + 1] = draw(value(parameter))
        else:
            arguments += [option, draw(value(parameter))]
    return command, arguments, damage


def placed(arguments: list[str], materials: Path, folder: Path, damage: int | None) -> list[str]:
    """The arguments with copies of the files that they name, one of them damaged."""
    how = random.Random(damage)
    names = {w.strip("{}") for w in arguments if w.startswith("{") and not w.startswith("{new}")}
    names &= {path.name for path in materials.iterdir()}
    for name in sorted(names):
        source = materials / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    if damage is not None and names:
        fuzz_materials.damage(folder / how.choice(sorted(names)), how)
    return [
        w.replace("{", "").replace("}", "") if w.startswith("{") and len(w) > 2 else w
        for w in arguments
    ]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder`, with what its file holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != "lock"
    }


def run(words: list[str], folder: Path) -> tuple[int, str, str]:
    """Run keelback in a child process; gives its exit code, or less than 0, and what it wrote."""
    out, err = folder.with_suffix(".out"), folder.with_suffix(".err")
    child = os.fork()
    if child == 0:
        _be_the_command(words, folder, out, err)
    for signal_, seconds in ((signal.SIGINT, SECONDS), (signal.SIGKILL, SECONDS_TO_STOP)):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                read = (path.read_bytes().decode(errors="replace") for path in (out, err))
                return (os.waitstatus_to_exitcode(status), *read)  # type: ignore[return-value]
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal_)
    os.waitpid(child, 0)
    return -signal.SIGKILL, "", "did not stop"


def _be_the_command(words: list[str], folder: Path, out: Path, err: Path) -> None:
    os.setpgid(0, 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    sys.argv = ["keelback", *words]
    code = 70
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except BaseException:
        faulthandler.dump_traceback()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        for process in __import__("multiprocessing").active_children():
            process.kill()
        os._exit(code)


def faults(code: int, out: str, err: str, before: Any, after: Any) -> Iterator[str]:
    """What is wrong with how a command ended."""
    if code not in (0, 1, 2, 130):
        yield f"ends with {code}"
    if "Traceback" in out + err or "most recent call first" in err:
        yield "a traceback"
    if "error: unexpected" in err:
        yield "an error that nothing expected"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if (code in (1, 2) and len(errors) != 1) or len(errors) > 1:
        yield f"{len(errors)} lines of error"
    if any((ord(c) < 32 and c not in "\n\t\r") or c == "\x7f" for c in out + err):
        yield "a raw control character"
    new = sorted(after.keys() - before.keys())
    if code == 2 and (new or any(after.get(name) != content for name, content in before.items())):
        yield f"input is wrong, and files were changed: {new[:3]}"
    if any(Path(part).name.startswith(".") for part in new):
        yield f"something half written: {[name for name in new if '/.' in '/' + name][:3]}"


def make_materials(folder: Path) -> None:
    """Write the files, in another process, and import here what commands need.

    Children are forked from this process, which therefore must have used none of the libraries:
    their threads would be missing in the child.
    """
    command = [sys.executable, str(Path(fuzz_materials.__file__)), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    for name in IMPORTED:
        importlib.import_module(name)


def fuzz(count: int, start: int, materials: Path, verbose: bool = False) -> Found:
    """Try `count` different inputs."""
    known, found = commands(), Found()
    seen: set[str] = set()

    @seed(start)
    @settings(
        max_examples=3 * count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs(known))
    def attempt(drawn: tuple[str, list[str], int | None]) -> None:
        command, arguments, damage = drawn
        if repr(drawn) in seen or len(seen) == count:
            return
        seen.add(repr(drawn))
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as top:
            folder = Path(top, "here")
            folder.mkdir()
            words = [*command.split(), *placed(arguments, materials, folder, damage)]
            before = contents(folder)
            code, out, err = run(words, folder)
            wrong = list(faults(code, out, err, before, contents(folder)))
        if verbose:
            print(f"{time.monotonic() - began:6.1f} s", code, words, file=sys.stderr, flush=True)
        found.commands[command] += 1
        found.codes[str(code)] += 1
        found.damaged += damage is not None
        if wrong:
            last = [line for line in err.splitlines() if line.startswith("error: ")]
            found.faults.append({"words": words, "damage": damage, "wrong": wrong, "said": last})
            print(found.faults[-1], file=sys.stderr, flush=True)

    attempt()
    return found


def as_numbers(found: Found) -> dict[str, Any]:
    """What was tried and what came of it."""
    return {
        "inputs": found.commands.total(),
        "with_a_damaged_file": found.damaged,
        "by_command": dict(sorted(found.commands.items())),
        "by_exit_code": dict(sorted(found.codes.items())),
        "faults": found.faults,
    }


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--inputs", type=int, default=600)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--verbose", action="store_true", help="name each input on stderr")
    result_file.add_options(options)
    return options


def program() -> None:
    """Fuzz as the command line says."""
    given_ = parser().parse_args()
    record = result_file.started(given_)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="fuzz-materials-") as folder:
        make_materials(Path(folder))
        found = fuzz(given_.inputs, given_.seed, Path(folder), given_.verbose)
    result_file.write(given_, record, as_numbers(found))
    print(f"{found.commands.total()} inputs, {len(found.faults)} faults", file=sys.stderr)
    sys.exit(1 if found.faults else 0)


if __name__ == "__main__":
    program()
