"""Run the tutorials and keep what they print and draw.

    python tools/run_notebooks.py               runs docs/tutorials/*.ipynb and writes their outputs
    python tools/run_notebooks.py NAME ...      some of them, by the name of the file

Each runs in an empty folder that stands for one of the repository: of it, `tests` is there. Cells
may write files; these are thrown away. What goes to stderr is not kept: it is about the machine.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorials"
SECONDS = 600
"""After which a cell is given up."""


def executed(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of its cells, run in `folder`.

    Raises:
        CellExecutionError: a cell failed.
    """
    (folder / "tests").symlink_to(ROOT / "tests")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        startup_timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "2", "MPLBACKEND": INLINE})
    return notebook


INLINE = "module://matplotlib_inline.backend_inline"


def write(notebook: Any, path: Path) -> None:
    """Keep what does not depend on the machine."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("names", nargs="*", help="notebooks, such as scan-in-your-model; all")
    return options


def main() -> None:
    names = parser().parse_args().names
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                write(executed(path, Path(folder)), path)
            print(path.name)


if __name__ == "__main__":
    main()
