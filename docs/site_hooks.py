"""Hooks of the site: its figures, formulas and API pages, and that it needs no other host.

In the repository a page names a figure as `../../results/...`; on the site `results` lies beside
the pages. A figure is given its size, and a frame in which it scrolls where the screen is narrower
than its labels can be read on. A formula becomes MathML when the site is built, so that no script
has to draw it; the font for it comes out of ziamath, of which nothing else is used. No line ends
within a number such as 8e-07, or after the dashes of an option.
"""

import html
import logging
import re
import struct
import sys
from importlib import import_module
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

from math_core import LatexToMathML
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
api_pages = import_module("api_pages")
FOLDER = "results"
OUTSIDE = re.compile(rf"\(((?:\.\./)*)\.\./{FOLDER}/")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</(?:span|div)>', re.DOTALL
)
WHOLE = re.compile(
    r"<(pre|script|style)\b.*?</\1>|<[^>]*>|(?<![\w-])(--\w[\w-]*|\d[\d.]*e-\d+)", re.DOTALL
)
FIGURES = re.compile(r"<p>\s*((?:<img [^>]*/>\s*)+)</p>")
PICTURE = re.compile(rf'(<img [^>]*src="(?:\.\./)*({FOLDER}/[^"]+\.png)")')
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
    for name, text in api_pages.pages().items():
        files.append(File.generated(config, name, content=text))
    font = str(files_of("ziamath") / FONT)
    files.append(File.generated(config, FONT, abs_src_path=font))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(rf"(\1{FOLDER}/", markdown)


def on_page_content(content: str, **_: Any) -> str:
    return WHOLE.sub(unbroken, FIGURES.sub(framed, FORMULA.sub(mathml, content)))


def unbroken(found: re.Match[str]) -> str:
    """An option or a number that a line may not break; tags and blocks of code as they are."""
    return f'<span class="whole">{found[2]}</span>' if found[2] else found[0]


def framed(figures: re.Match[str]) -> str:
    """Pictures of results in frames; other pictures as they are."""
    found = PICTURE.findall(figures[1])
    if not found:
        return figures[0]
    return "".join(
        f'<div class="figure" tabindex="0">{tag} width="{width}" height="{height}" /></div>'
        for tag, name in found
        for width, height in [size_of(ROOT / name)]
    )


def size_of(png: Path) -> tuple[int, int]:
    """Width and height of a PNG in pixels, from its first chunk."""
    return struct.unpack(">II", png.read_bytes()[16:24])


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
