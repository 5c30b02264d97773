"""Say what rebuilding every committed result takes, and rebuild them.

    python tools/rebuild_results.py                         what there is to do, where, how long
    python tools/rebuild_results.py --run --where cpu --imdb data/imdb --vocab data/vocab.txt \\
        --checkpoints checkpoints --packages packages       does what two cores can do

The commands are those of `results/index.json`. `--only` and `--where` choose among them. What was
made from the present commit's code is passed over, so a call that was stopped is simply given
again, on any machine to which the results so far were carried. A command that fails is named, the
others go on, and those that read its result wait. Sweeps lie in `runs/COMMIT`, the output of each
command in `runs/COMMIT/logs`. The files that a result had lie in `runs/before` while its command
runs, and are put back if that fails or is stopped. How long each took is noted in
`results/times.json`.

Exits with 0 if everything chosen is made from the present commit, 1 if something is not or another
call works in this folder, 2 if the code differs from its commit and `--allow-dirty` is not given,
130 if it was interrupted.
"""

import argparse
import fcntl
import fnmatch
import glob
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rebuild_plan
import results_index
from keelback.commit import commit, is_clean
from keelback.files import write_atomically
from rebuild_plan import PLACES, WHERE, Job

IN_WORDS = {"cpu": "two cores", "gpu": "one GPU", "gpus": "several GPUs"}

Times = dict[str, dict[str, Any]]


def times() -> Times:
    """How long each result took, in seconds, and at which commit."""
    file = results_index.TIMES
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def chosen(jobs: Sequence[Job], only: Sequence[str], where: Sequence[str]) -> list[Job]:
    """The jobs that make a result of one of these names, and run on one of these machines."""
    return [
        job
        for job in jobs
        if (not where or job.where in where)
        and (not only or any(_matches(path, pattern) for path in job.makes for pattern in only))
    ]


def _matches(path: str, pattern: str) -> bool:
    return pattern in path or fnmatch.fnmatch(path, pattern)


def lacking(job: Job) -> list[str]:
    """The words of the job's commands that no option and no link says the path of."""
    return [name for name in job.places if not (results_index.ROOT / "runs" / name).exists()]


def in_words(seconds: float | None, whole: bool = True) -> str:
    if seconds is None:
        return "unknown"
    return ("" if whole else "over ") + str(timedelta(seconds=round(seconds)))


def show(jobs: Sequence[Job], done: Sequence[Job], here: Sequence[str]) -> None:
    """Print what there is to do: where, how long, what it makes, by which commands.

    `here` are this machine's GPUs.
    """
    for job in jobs:
        state = "done" if job in done else in_words(job.seconds, job.whole)
        print(f"{IN_WORDS[job.where]}, {state}: {', '.join(job.makes)}")
        if job in done:
            continue
        for command in job.commands:
            print(f"    {command}")
        for name in lacking(job):
            print(f"    needs --{name.lower()}: {PLACES[name]}")
        if job.devices:
            print(f"    is about {', '.join(job.devices)} alone")
        if reason := not_here(job, here):
            print(f"    not on this machine: {reason}")
    print()
    for where in WHERE:
        left = [job for job in jobs if job.where == where and job not in done]
        known = [job.seconds for job in left if job.seconds is not None]
        if left:
            print(
                f"{IN_WORDS[where]}: {len(left)} to do; {len(known)} of them took "
                f"{in_words(sum(known), whole=False)}, the others' time is unknown"
            )
    print(f"{len([job for job in jobs if job in done])} of {len(jobs)} are done")


def gpus() -> list[str]:
    """The names of the GPUs of this machine."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def not_here(job: Job, here: Sequence[str]) -> str | None:
    """Why this machine cannot run the job."""
    reasons = []
    if len(here) < WHERE.index(job.where):
        reasons.append(f"needs {IN_WORDS[job.where]}")
    elif job.devices and not set(job.devices) & set(here):
        reasons.append(f"is about {', '.join(job.devices)}")
    if missing := [name for name in job.packages if find_spec(name) is None]:
        reasons.append(f"needs the {'packages' if missing[1:] else 'package'} {', '.join(missing)}")
    return "; ".join(reasons) or None


class Rebuild:
    """One call's work: what it runs from, and what came of each job."""

    def __init__(self, now: str | None, *, allow_dirty: bool) -> None:
        self.now = now
        self.allow_dirty = allow_dirty
        folder = now[:12] if now and is_clean(now) else time.strftime("dirty-%Y%m%d-%H%M%S")
        self.store = f"runs/{folder}"
        put_back()
        self.results = results_index.results()
        self.times = times()
        self.made: set[str] = set()

    def is_done(self, job: Job) -> bool:
        return self.made.issuperset(job.makes) or rebuild_plan.is_done(
            job, self.results, self.times, self.now
        )

    def waits_for(self, job: Job, jobs: Sequence[Job]) -> list[str]:
        """What the job reads that is not made from the present commit yet."""
        makers = {path: other for other in jobs for path in other.makes}
        return [path for path in job.after if not self.is_done(makers[path])]

    def run(self, job: Job) -> str | None:
        """Run a job; gives what went wrong, None where nothing did."""
        name = job.makes[0].removeprefix("results/").replace("/", "-")
        files = [file for path in job.makes for file in self.results[path].files]
        _put_aside(files)
        began = time.monotonic()
        wrong: str | None = "was stopped"
        try:
            wrong = self._run_steps(job, name) or self._check(job)
        finally:
            if wrong is not None:
                put_back()
                self.results = results_index.results()
        if wrong is None:
            self.made |= set(job.makes)
            shutil.rmtree(_before(), ignore_errors=True)
            gone = [file for file in files if not (results_index.ROOT / file).exists()]
            for file in gone:
                print(f"    is made no longer: {file}")
            for path in job.makes:
                self.times[path] = {
                    "seconds": round(time.monotonic() - began, 1),
                    "commit": self.now,
                }
            text = json.dumps(dict(sorted(self.times.items())), indent=1) + "\n"
            write_atomically(results_index.TIMES, text)
        return wrong

    def _run_steps(self, job: Job, name: str) -> str | None:
        log = results_index.ROOT / self.store / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as told:
            for command in job.commands:
                step = rebuild_plan.step(command, name, self.store, allow_dirty=self.allow_dirty)
                output = log.with_suffix(".out") if step.stdout else None
                with output.open("wb") if output else open(os.devnull, "wb") as out:
                    code = subprocess.run(
                        _with_names(step.words),
                        cwd=results_index.ROOT,
                        env=_environment(job.where) | dict(step.environment),
                        stdin=subprocess.DEVNULL,
                        stdout=out if output else told,
                        stderr=told,
                        check=False,
                    ).returncode
                if code:
                    return f"exit {code} of {command}; its output: {log}"
                if output and step.stdout:
                    shutil.move(output, results_index.ROOT / step.stdout)
        return None

    def _check(self, job: Job) -> str | None:
        """Read what is there now: the job made its results, from this commit, and nothing else."""
        try:
            found = results_index.results()
        except SystemExit as error:
            return str(error)
        missing = [path for path in job.makes if path not in found]
        if missing:
            return f"its commands did not write {', '.join(missing)}"
        noted = self.times | {path: {"commit": self.now} for path in job.makes}
        if not self.allow_dirty and not rebuild_plan.is_done(job, found, noted, self.now):
            return f"its files do not say that {self.now} made them"
        self.results = found
        return None


def _before() -> Path:
    return results_index.ROOT / "runs" / "before"


def _put_aside(files: Sequence[str]) -> None:
    for file in files:
        (_before() / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(results_index.ROOT / file, _before() / file)


def put_back() -> None:
    """Put the files of a result back whose command did not end well, now or in an earlier call."""
    for file in sorted(_before().rglob("*")):
        if file.is_file():
            target = results_index.ROOT / file.relative_to(_before())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target)
    shutil.rmtree(_before(), ignore_errors=True)


def _with_names(words: Sequence[str]) -> list[str]:
    """The words, those with a star as the files of such names, as a shell has them."""
    found = []
    for word in words:
        names = sorted(glob.glob(word, root_dir=results_index.ROOT)) if "*" in word else []
        found += names or [word]
    return found


def _environment(where: str) -> dict[str, str]:
    """What a job sees: no GPU, one, or all of them."""
    if where == "gpus":
        return dict(os.environ)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if where == "gpu" else ""
    return os.environ | {"CUDA_VISIBLE_DEVICES": visible}


def link_places(given: Mapping[str, Path | None]) -> None:
    """Make `runs/IMDB` and the like lead to the paths given; those of an earlier call stay."""
    for name, path in given.items():
        if path is None:
            continue
        if not path.exists():
            sys.exit(f"error: --{name.lower()}: there is no {path}")
        link = results_index.ROOT / "runs" / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--run", action="store_true", help="rebuild, after saying what")
    options.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="results whose path holds this, or matches it with stars; may be repeated",
    )
    options.add_argument(
        "--where",
        action="append",
        default=[],
        choices=WHERE,
        help="what runs on two cores, on one GPU, on several; may be repeated",
    )
    for name, what in PLACES.items():
        options.add_argument(f"--{name.lower()}", type=Path, metavar="PATH", help=what)
    options.add_argument(
        "--allow-dirty",
        action="store_true",
        help="run code that differs from its commit; no page may then show what it makes",
    )
    return options


def rebuild(
    work: Rebuild, jobs: Sequence[Job], todo: Sequence[Job], here: Sequence[str]
) -> list[str]:
    """Run the jobs; gives a line about each that was not done."""
    left = []
    for job in todo:
        waits = work.waits_for(job, jobs)
        reason = not_here(job, here)
        if reason is None and (names := lacking(job)):
            reason = "needs " + ", ".join(f"--{name.lower()}" for name in names)
        if reason is None and waits:
            reason = f"waits for {', '.join(waits)}"
        if reason is None:
            print(f"running: {', '.join(job.makes)}", flush=True)
            reason = work.run(job)
        if reason is not None:
            left.append(f"not made: {', '.join(job.makes)}: {reason}")
            print(left[-1], flush=True)
    return left


@contextmanager
def alone() -> Iterator[None]:
    """Exit if another call works in this folder: what it put aside is not to be put back."""
    lock = results_index.ROOT / "runs" / "rebuild.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"error: another call works in {results_index.ROOT}; wait until it ends")
        yield


def main() -> int:
    given = parser().parse_args()
    with alone():
        return _main(given)


def _main(given: argparse.Namespace) -> int:
    now = commit()
    link_places({name: getattr(given, name.lower()) for name in PLACES})
    work = Rebuild(now, allow_dirty=given.allow_dirty)
    jobs = rebuild_plan.jobs(work.results, work.times)
    wanted = chosen(jobs, given.only, given.where)
    done = [job for job in wanted if work.is_done(job)]
    here = gpus()
    show(wanted, done, here)
    if not given.run:
        return int(len(done) < len(wanted))
    if not is_clean(now) and not given.allow_dirty:
        print(
            f"error: the code {'differs from its commit' if now else 'is of no known commit'}; "
            "commit it first, or give --allow-dirty, and no page may show what is made",
            file=sys.stderr,
        )
        return 2
    try:
        left = rebuild(work, jobs, [job for job in wanted if job not in done], here)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print("", *left, sep="\n")
    print(f"{len(wanted) - len(left)} of {len(wanted)} are made from the present commit")
    print("then: python tools/results_index.py; python tools/fill_tables.py")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
