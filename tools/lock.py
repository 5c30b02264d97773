"""Lock what `make demo`, `make test` and `make docs` install, with hashes: `make lock`.

Each of `requirements/{demo,test,docs}.txt` holds everything for one of them but PyTorch, for Python
3.11 to 3.13 on Linux (x86-64 and aarch64). PyTorch is the CPU build of
`requirements/torch-cpu.txt`, which is edited by hand: it has a file of its own because pip would
look into its index for every other package too. Plain pip installs both:

    pip install --require-hashes --no-deps -r requirements/torch-cpu.txt
    pip install --require-hashes --no-deps -r requirements/test.txt
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
WHEELS = "https://download.pytorch.org/whl/cpu/torch/"
LOCKS = {"demo": ("report",), "test": ("dev",), "docs": ("docs",)}
HEADER = """\
# Made by `make lock` from pyproject.toml: change that, not this. After requirements/torch-cpu.txt:
# pip install --require-hashes --no-deps -r requirements/{name}.txt
"""
COMMON = "python_full_version < '3.14' and sys_platform == 'linux'"
"""The markers of everything here, which go without saying."""


def torch_version() -> str:
    """The version of PyTorch that the lock is for, as a requirement."""
    lines = (FOLDER / "torch-cpu.txt").read_text().splitlines()
    return next(line.split()[0] for line in lines if line.startswith("torch=="))


def locked(name: str, extras: tuple[str, ...]) -> str:
    """The lock of the package with these extras."""
    command = ["uv", "pip", "compile", "pyproject.toml", "requirements/build.in", "--universal"]
    command += ["--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    command += ["--no-emit-package", "torch", "--prerelease", "disallow"]
    if "UV_FIND_LINKS" not in os.environ:  # Where the wheels lie elsewhere, uv is told so.
        command += ["--find-links", WHEELS]
    command += ["--constraints", "-"]
    command += [word for extra in extras for word in ("--extra", extra)]
    done = subprocess.run(
        command, cwd=ROOT, input=torch_version(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"uv cannot lock {name}: {done.stderr.strip()}")
    text = done.stdout.replace(f" ; {COMMON} ", " ")
    return HEADER.format(name=name) + text


def main() -> None:
    for name, extras in LOCKS.items():
        (FOLDER / f"{name}.txt").write_text(locked(name, extras))


if __name__ == "__main__":
    main()
