"""The server of the page: on this machine only, read only, four fixed addresses and no files."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from keelback.errors import InputError, JobError, in_one_line
from keelback.watch._page import page_file, render_page, require_page, style_sheet
from keelback.watch._reader import Reader
from keelback.watch._snapshot import Snapshot

LOOPBACK = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer carries: nothing but the server's own script and style is loaded or run."""

_SECONDS_TO_ASK = 10.0


class PageServer:
    """Serves the page of one folder on the loopback address, until it is stopped.

    `/` is the page, `/state.json` the snapshot for programs, and two more addresses are the page's
    script and style sheet. No address names a file; every other one is answered with 404, and
    every method but GET and HEAD with 405. A request by another name than this machine's own is
    refused, so that no page from elsewhere can read it through the browser.

    Args:
        reader: takes the snapshots, one at a time.
        port: to listen on; 0 for any that is free.
        every: seconds for which a snapshot is shown to all who ask.

    Raises:
        InputError: the port is taken, or Jinja2 is missing.

    Examples:
        >>> from pathlib import Path
        >>> from keelback.sweeps import Store
        >>> from keelback.watch import reader_of
        >>> store = Store.create(Path("runs"))
        >>> with PageServer(reader_of(Path("runs"))) as server:
        ...     print(server.address.startswith("http://127.0.0.1:"))
        True
    """

    def __init__(self, reader: Reader, port: int = 0, every: float = 1.0) -> None:
        require_page()
        pages = _Pages(reader, every)
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), _handler(pages))
        except OSError as error:
            raise InputError(
                f"port {port} of {LOOPBACK} cannot be used: {error.strerror}; --port 0 takes any "
                "that is free"
            ) from None
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    def serve(self) -> None:
        """Answer until the process is interrupted."""
        self._server.serve_forever()

    def __enter__(self) -> "PageServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Pages:
    """What each address shows, from one snapshot for all who ask within a while."""

    def __init__(self, reader: Reader, every: float) -> None:
        self._reader, self._every = reader, every
        self._lock = threading.Lock()
        self._last: tuple[float, Snapshot] | None = None
        self.paths: dict[str, tuple[str, Callable[[], str]]] = {
            "/": ("text/html", lambda: render_page(self._snapshot())),
            "/state.json": ("application/json", lambda: json.dumps(self._snapshot().to_json())),
            "/watch.css": ("text/css", style_sheet),
            "/watch.js": ("text/javascript", lambda: page_file("watch.js")),
        }

    def _snapshot(self) -> Snapshot:
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] >= self._every:
                self._last = None
                self._last = time.monotonic(), self._reader.read()
            return self._last[1]


def _handler(pages: _Pages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS_TO_ASK
        server_version, sys_version = "keelback", ""

        def do_GET(self) -> None:
            self._reply()

        def do_HEAD(self) -> None:
            self._reply()

        def __getattr__(self, name: str) -> Any:
            """The method of every request that the base class looks for and there is none for."""
            if name.startswith("do_"):
                return self._refuse_method
            raise AttributeError(name)

        def _refuse_method(self) -> None:
            self._answer(405, "text/plain", "this page is read only: GET and HEAD", "GET, HEAD")

        def _reply(self) -> None:
            port = self.connection.getsockname()[1]
            own = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
            if self.headers.get("Host") not in own:
                self._answer(403, "text/plain", f"this page is at http://{LOOPBACK}:{port}/ only")
            elif self.path not in pages.paths:
                self._answer(404, "text/plain", "nothing is here; the page is at /")
            else:
                kind, make = pages.paths[self.path]
                try:
                    self._answer(200, kind, make())
                except (InputError, JobError) as error:
                    self._answer(503, "text/plain", str(error))
                except OSError:
                    pass  # Who asked is gone.
                except Exception as error:
                    self._answer(500, "text/plain", in_one_line(error))

        def _answer(self, code: int, kind: str, text: str, allow: str = "") -> None:
            content = text.encode("utf-8", "replace")
            self.send_response(code)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            if allow:
                self.send_header("Allow", allow)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """The terminal is not told who asked."""

    return Handler
