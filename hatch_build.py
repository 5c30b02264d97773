"""Build hooks: a wheel and an sdist hold the commit that they were built from, and a page.

An editable install gets no commit, as its checkout's git knows it; nor does a wheel that is built
from an sdist, which holds the commit already. The page is the README without what leads into the
repository.
"""

import importlib.util
import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A picture of the repository, with what is written below it; and a link to a file.
_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n+\*.*?\*\n\n", re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)")


class PageHook(MetadataHookInterface):
    """Makes the README the package's page, where no file of the repository is at hand."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Leave pictures out, and of links what they are called."""
        text = (Path(self.root) / "README.md").read_text()
        page = _LINK.sub(r"\1", _PICTURE.sub("", text))
        metadata["readme"] = {"content-type": "text/markdown", "text": page}


class CommitHook(BuildHookInterface[Any]):
    """Adds `commit.txt` to what is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Find the commit before anything is built."""
        root = Path(self.root)
        if version == "editable" or not (root / ".git").exists():
            return
        spec = importlib.util.spec_from_file_location("commit", root / "src/keelback/commit.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = module.commit_of(root)
        if found is None:
            return
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / module.BUILT
        file.write_text(found + "\n")
        room = "src/keelback" if self.target_name == "sdist" else "keelback"
        build_data["force_include"][str(file)] = f"{room}/{module.BUILT}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Let go of the file once it is in the artifact."""
        folder = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()
