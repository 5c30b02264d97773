"""Hooks of the site: its figures, its formulas, and that it needs no other host.

In the repository a page names a figure as `../../results/...`; on the site `results` lies beside
the pages. A formula becomes MathML when the site is built, so that no script has to draw it; the
font for it comes out of ziamath, of which nothing else is used.
"""

import html
import logging
import re
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

from math_core import LatexToMathML
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "results"
OUTSIDE = re.compile(rf"\(((?:\.\./)*)\.\./{FOLDER}/")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</(?:span|div)>', re.DOTALL
)
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object|link(?!\s+rel="?canonical))\b[^>]*?"""
    r"""\b(?:src|href|data)=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|\burl\(\s*["']?((?:https?:)?//[^"'\s)]+)|@import\s+["']((?:https?:)?//[^"']+)"""
)
CONVERTER = LatexToMathML()
FONT = "fonts/STIXTwoMath-Regular.ttf"
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: Any) -> Files:
    for path in sorted((ROOT / FOLDER).rglob("*.png")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    font = str(files_of("ziamath") / FONT)
    files.append(File.generated(config, FONT, abs_src_path=font))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(rf"(\1{FOLDER}/", markdown)


def on_page_content(content: str, **_: Any) -> str:
    return FORMULA.sub(mathml, content)


def mathml(formula: re.Match[str]) -> str:
    """The formula as MathML; one on a line of its own scrolls where it is too wide."""
    block = formula[1] == "div"
    tex = html.unescape(formula[2]).strip()
    drawn = CONVERTER.convert_with_local_state(tex, displaystyle=block)
    return f'<div class="formula" tabindex="0">{drawn}</div>' if block else drawn


def on_post_page(output: str, page: Any, **_: Any) -> str:
    for host in loads_from_elsewhere(output):
        log.warning("%s loads %s from another host", page.file.src_uri, host)
    return output


def loads_from_elsewhere(text: str) -> list[str]:
    """What a page of HTML or a style sheet would fetch from another host."""
    return [next(filter(None, found)) for found in LOADS.findall(text)]
