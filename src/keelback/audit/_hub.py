"""Names on the Hub: told from paths that were mistyped, and asked for before anything is loaded."""

import os
import re
import threading
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".npz", ".npy", ".gguf", ".txt")
_SECONDS = 5.0


def why_not_there(source: str, *files: str) -> str | None:
    """Why what is no path here cannot be had from the Hub either; `None` where it can.

    A name is sent there only where it cannot be a path: `owner/name`, without a file's ending, and
    with no folder `owner` here. The answer comes within seconds, whether there is a network or not.

    Args:
        source: what the user gave; nothing of that name is here.
        files: of which it must have one.
    """
    why_path = _why_a_path(source)
    if why_path is not None:
        return f"no such file or folder{why_path}"
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return "no such file or folder; for names on the Hub, pip install 'keelback[hf]'"
    if any(isinstance(try_to_load_from_cache(source, file), str) for file in files):
        return None
    reason = ""
    for file in files:
        error = _asked(source, file)
        if error is None:
            return None
        reason = _in_words(source, file, error)
        if not reason.endswith(file):
            break
    return f"no such file or folder, and {reason}"


def _why_a_path(source: str) -> str | None:
    """What to add about a name that is never sent to the Hub; `None` for one that is."""
    if _NAME.fullmatch(source) and not source.lower().endswith(_FILES):
        owner = source.split("/")[0]
        return f" (there is a folder {owner} here)" if Path(owner).is_dir() else None
    bare = re.fullmatch(r"[A-Za-z0-9][\w.-]*", source) and not source.lower().endswith(_FILES)
    return "; on the Hub, a name has its owner in it: OWNER/NAME" if bare else ""


def _asked(name: str, file: str) -> BaseException | None:
    """What keeps `file` of `name` from being fetched; `None` where nothing does."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return ConnectionError("HF_HUB_OFFLINE is set")
    found: list[Any] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(name, file), timeout=_SECONDS)
            found.append(None)
        except Exception as error:
            found.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # a name server may not answer at all
    asking.start()
    asking.join(2 * _SECONDS)
    return found[0] if found else TimeoutError(f"no answer within {2 * _SECONDS:.0f} s")


def _in_words(name: str, file: str, error: BaseException) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return f"{name} on the Hub must be asked for: accept its terms there, then log in here"
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return f"the Hub has no {name} (or it is private, and you are not logged in)"
    if kind == "RevisionNotFoundError":
        return f"{name} on the Hub is empty"
    if kind in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
        return f"{name} on the Hub has no {file}"
    reason = " ".join(str(error).split())[:120] or kind
    return f"the Hub cannot be reached ({reason})"
