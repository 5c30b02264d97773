"""The Hugging Face Hub, and in one line what goes wrong with it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from keelback.errors import InputError

_PATIENCE_SECONDS = 10.0


@contextmanager
def hub_errors(what: str, instead: str) -> Iterator[None]:
    """Turn a failed import or download into an InputError that says what to give `instead`.

    The Hub is called once before anything is fetched: its libraries retry for most of a minute
    where there is no network. With `HF_HUB_OFFLINE=1` they look in their own cache only.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    otherwise = "" if offline else ", or set HF_HUB_OFFLINE=1 if it has been fetched before"
    try:
        if not offline:
            _reach_hub()
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"fetching {what} from the Hugging Face Hub needs the {error.name} library: "
            f"pip install 'keelback[hf]', or give {instead}"
        ) from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot fetch {what} from the Hugging Face Hub ({reason[:200]}); "
            f"give {instead}{otherwise}"
        ) from None


def _reach_hub() -> None:
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=_PATIENCE_SECONDS)
