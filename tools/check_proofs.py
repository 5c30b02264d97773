"""Check every proof in `proofs/` by Coq, and on which axioms each theorem rests: `make prove`.

    python tools/check_proofs.py             compiles what has changed, then asks for the axioms
    python tools/check_proofs.py --install   the same, and installs Coq first where apt-get may
    python tools/check_proofs.py --clean     compiles everything anew
    python tools/check_proofs.py --out FILE  also writes what was found, with what made it

It fails where a file does not compile, where a word of a file leaves a proof out, where a theorem
is not in `proofs/theorems.json` (or the other way round), and where a theorem rests on an axiom
that the real numbers of Coq's standard library do not bring. Python and Coq are all it needs; with
`--out` also keelback.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROOFS = ROOT / "proofs"
INDEX = PROOFS / "theorems.json"

PACKAGES = ("coq", "libcoq-coquelicot", "make")
HOW_TO_INSTALL = (
    "Coq with Coquelicot is not here. On Debian 12: apt-get install coq libcoq-coquelicot; "
    "elsewhere: opam install coq.8.16.1 coq-coquelicot.3.2.0"
)

# What the real numbers of Coq's standard library rest on.
ALLOWED_AXIOMS = {
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "Classical_Prop.classic",
    "FunctionalExtensionality.functional_extensionality_dep",
}

# Words with which a file could state something and leave its proof out.
LEFT_OUT = re.compile(
    r"\b(Admitted|admit|give_up|Axioms?|Parameters?|Conjectures?|Abort|bypass_check|Unset\s+\w+\s+Checking)\b"
)
COMMENT = re.compile(r"\(\*|\*\)")
THEOREM = re.compile(r"^Theorem\s+([\w']+)", re.MULTILINE)


@dataclass(frozen=True)
class Checked:
    """One theorem, the file that proves it and the axioms that it rests on."""

    theorem: str
    file: str
    axioms: list[str]


def without_comments(text: str) -> str:
    """The text of a Coq file with its comments, which nest, taken out."""
    kept, depth, start = [], 0, 0
    for mark in COMMENT.finditer(text):
        if depth == 0:
            kept.append(text[start : mark.start()])
        depth = depth + 1 if mark[0] == "(*" else depth - 1
        start = mark.end()
    return "".join([*kept, text[start:]])


def source_files() -> list[Path]:
    """The files of `_CoqProject`, in the order in which they build on each other.

    Raises:
        SystemExit: a file is listed and not there, or there and not listed.
    """
    lines = (PROOFS / "_CoqProject").read_text().splitlines()
    listed = [PROOFS / line for line in lines if line.endswith(".v")]
    if wrong := sorted({path.name for path in set(listed) ^ set(PROOFS.glob("*.v"))}):
        sys.exit(f"proofs/_CoqProject and the files beside it differ in: {', '.join(wrong)}")
    return listed


def theorems() -> dict[str, Path]:
    """The file of each statement that is called a theorem, by its name."""
    found: dict[str, Path] = {}
    for path in source_files():
        text = without_comments(path.read_text())
        if left_out := LEFT_OUT.search(text):
            sys.exit(f"{path.relative_to(ROOT)} says {left_out[0]}: nothing may be left unproved")
        for name in THEOREM.findall(text):
            if name in found:
                sys.exit(f"two theorems are called {name}: in {found[name].name} and {path.name}")
            found[name] = path
    return found


def indexed() -> dict[str, str]:
    """The file of each theorem according to `proofs/theorems.json`, by its name."""
    groups = json.loads(INDEX.read_text())
    return {row["theorem"].strip("`"): row["file"] for rows in groups.values() for row in rows}


def require_index(found: dict[str, Path]) -> None:
    """End the script where the index is not the list of the theorems."""
    there = {name: path.name for name, path in found.items()}
    if wrong := sorted({name for name, _ in there.items() ^ indexed().items()}):
        sys.exit(f"proofs/theorems.json and the files differ in: {', '.join(wrong)}")


def require_coq(*, install: bool) -> str:
    """The version of Coq, installed first where that is asked for and can be done.

    Raises:
        SystemExit: Coq or Coquelicot is missing; the message says how to get them.
    """
    if not _has_coquelicot() and install and shutil.which("apt-get") and os.geteuid() == 0:
        print(f"installing {', '.join(PACKAGES)}", file=sys.stderr)
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", *PACKAGES], check=True)
    if not _has_coquelicot():
        sys.exit(HOW_TO_INSTALL)
    return subprocess.check_output(["coqc", "--print-version"], text=True).split()[0]


def _has_coquelicot() -> bool:
    if not shutil.which("coqc"):
        return False
    return _compiles("From Coquelicot Require Import Coquelicot.\n").returncode == 0


def _compiles(text: str) -> "subprocess.CompletedProcess[str]":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Question.v"
        path.write_text(text)
        command = ["coqc", "-q", "-Q", str(PROOFS), "Keelback", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def compile_all(*, clean: bool, jobs: int) -> None:
    """Compile the files whose sources, or what they build on, have changed.

    Raises:
        SystemExit: a file does not compile; Coq has said where.
    """
    makefile = "Makefile.coq"
    subprocess.run(["coq_makefile", "-f", "_CoqProject", "-o", makefile], cwd=PROOFS, check=True)
    if clean:
        subprocess.run(["make", "-s", "-f", makefile, "clean"], cwd=PROOFS, check=True)
    command = ["make", "-f", makefile, f"--jobs={jobs}"]
    if subprocess.run(command, cwd=PROOFS, check=False).returncode:
        sys.exit("a proof does not hold: Coq says above which one and where")


def axioms_of(found: dict[str, Path], *, jobs: int) -> list[Checked]:
    """What Coq's `Print Assumptions` says of each theorem.

    Raises:
        SystemExit: the answer cannot be read.
    """
    names = list(found)
    with ThreadPoolExecutor(jobs) as workers:
        answers = workers.map(
            _ask, [{n: found[n] for n in names[start::jobs]} for start in range(jobs)]
        )
        axioms = dict(pair for answer in answers for pair in read_axioms(answer))
    if set(axioms) != set(names):
        sys.exit("Coq did not answer for every theorem")
    return [Checked(name, found[name].name, axioms[name]) for name in names]


def _ask(about: dict[str, Path]) -> str:
    modules = " ".join(dict.fromkeys(path.stem for path in about.values()))
    text = f"From Coq Require Import String.\nFrom Keelback Require {modules}.\n"
    for name, path in about.items():
        text += f'Eval compute in "theorem {name}"%string.\n'
        text += f"Print Assumptions Keelback.{path.stem}.{name}.\n"
    answer = _compiles(text)
    if answer.returncode:
        sys.exit(f"Coq does not say what the theorems rest on: {answer.stderr.strip()}")
    return answer.stdout


def read_axioms(answer: str) -> list[tuple[str, list[str]]]:
    """The theorems of an answer of Coq in its order, each with the axioms named after it."""
    parts = re.split(
        r'^\s*= "theorem (\S+)"(?:%string)?\n\s*: string\n', answer, flags=re.MULTILINE
    )
    return [
        (name, re.findall(r"^(?!Axioms:|Closed under)(\S+)", said, re.MULTILINE))
        for name, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def require_allowed(checked: list[Checked]) -> None:
    """End the script where a theorem rests on more than the real numbers do."""
    for one in checked:
        if more := sorted(set(one.axioms) - ALLOWED_AXIOMS):
            sys.exit(f"{one.theorem} in {one.file} rests on {', '.join(more)}")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--install", action="store_true", help="install Coq by apt-get if missing")
    options.add_argument("--clean", action="store_true", help="compile everything anew")
    options.add_argument("--jobs", type=int, default=2, help="files compiled at a time (default 2)")
    options.add_argument("--out", type=Path, help="file of the result, JSON")
    options.add_argument(
        "--allow-dirty",
        action="store_true",
        help="write under results/ from code that differs from its commit",
    )
    return options


def main() -> None:
    given = parser().parse_args()
    record = _started(given)
    found = theorems()
    require_index(found)
    version = require_coq(install=given.install)
    start = time.monotonic()
    compile_all(clean=given.clean or record is not None, jobs=given.jobs)
    checked = axioms_of(found, jobs=given.jobs)
    require_allowed(checked)
    seconds = round(time.monotonic() - start)
    used = sorted({axiom for one in checked for axiom in one.axioms})
    files = source_files()
    print(f"Coq {version} accepts {len(checked)} theorems in {len(files)} files, {seconds} s")
    print("They rest on " + ", ".join(used))
    if record is not None:
        from result_file import write

        given.out.parent.mkdir(parents=True, exist_ok=True)

        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        totals = {
            "coq": version,
            "theorems": len(checked),
            "files": len(files),
            "lines": sum(len(path.read_text().splitlines()) for path in files),
            "seconds": seconds,
            "processor seconds": round(spent.ru_utime + spent.ru_stime),
            "jobs": given.jobs,
        }
        rests = [{"axiom": axiom, "theorems": _resting_on(axiom, checked)} for axiom in used]
        write(given, record, {"rows": [totals], "axioms": rests, "each": [*map(asdict, checked)]})


def _resting_on(axiom: str, checked: list[Checked]) -> int:
    return sum(axiom in one.axioms for one in checked)


def _started(given: argparse.Namespace) -> dict[str, Any] | None:
    """What makes the result, where one is to be written; `make prove` needs no keelback."""
    if given.out is None:
        return None
    from result_file import started

    return started(given)


if __name__ == "__main__":
    main()
