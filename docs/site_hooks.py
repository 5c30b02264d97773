"""Hooks of the site: the figures under `results` are pages' neighbours there.

In the repository a page names them as `../results/...`; on the site they lie beside the pages.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "results"


def on_files(files: Files, config: Any) -> Files:
    for path in sorted((ROOT / FOLDER).rglob("*.png")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(f"(../{FOLDER}/", f"({FOLDER}/")
