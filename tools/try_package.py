"""Install a built wheel or sdist with its core dependencies alone, and use it: `make package`.

    python tools/try_package.py dist/keelback-0.1.0-py3-none-any.whl

Makes an empty environment in a temporary folder, installs PyTorch's CPU build and the package, and
runs `bound`, `train`, `evaluate` and `reproduce --no-report` there, away from the checkout.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NORMS = ("B_u", "B_A", "B_B", "M_B", "B_C", "M_C", "B_q", "M_q", "B_w", "M_w", "p_hi")
SIZES = {"T": 100, "m": 1000, "d": 4, "N": 4}
CONSTANTS = {**dict.fromkeys(NORMS, 1.0), "s_A": -0.1, "p_lo": -1.0, **SIZES}
COMMANDS = (
    "--version",
    "doctor",
    "bound --constants constants.json --json",
    "train --task majority --seq-len 20 --epochs 2 --out run --json",
    "evaluate {directory} --task majority --seq-len 20 --json",
    "reproduce length-independence --task majority --seq-len 20 --seeds 1 --set epochs=1 "
    "--no-report --out sweep",
)


def main() -> None:
    package = Path(sys.argv[1]).resolve()
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv" / "bin"
        pip: list[str | Path] = [
            programs / "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        lock = ROOT / "requirements" / "torch-cpu.txt"
        for step in ([*pip, "--no-deps", "--requirement", lock], [*pip, package]):
            subprocess.run(step, cwd=folder, env=environment, check=True)
        (folder / "constants.json").write_text(json.dumps(CONSTANTS))
        told: dict[str, object] = {}
        for command in COMMANDS:
            text = command.format_map(told)
            print(f"keelback {text}", flush=True)
            words = [str(programs / "keelback"), *text.split()]
            done = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"exit {done.returncode}\n{done.stdout}{done.stderr}")
            if "--json" in words:
                told |= json.loads(done.stdout)


if __name__ == "__main__":
    main()
