"""The page of `keelback watch`: who may read it, what it says, and in a real browser."""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from headless_chromium import EXECUTABLE, Page
from report_samples import HOSTILE

from keelback.errors import InputError
from keelback.sweeps import Store
from keelback.sweeps.run import name_of
from keelback.watch import PageServer, reader_of


def finish(store: Store, seed: int, **fields: str) -> str:
    """A run of some kind: its record and history, as the store keeps them."""
    run: dict[str, Any] = {"kind": "made-up", "seed": seed, **fields}
    folder = store.directory / "runs" / name_of(run)
    partial = folder.with_name(f".{folder.name}")
    partial.mkdir()
    rows = [{"epoch": epoch, "loss": 2.0 - epoch + seed, HOSTILE: 1.0} for epoch in range(2)]
    pl.DataFrame(rows).write_parquet(partial / "history.parquet")
    summary = {"diverged": seed == 2, "diverged_tensor": HOSTILE, "epochs": 1}
    record = {"run": run, "summary": summary, "provenance": {"date": HOSTILE}}
    (partial / "run.json").write_text(json.dumps(record))
    partial.rename(folder)
    return folder.name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "store")
    finish(store, 1, note=HOSTILE)
    return store


@pytest.fixture
def server(store: Store) -> Iterator[PageServer]:
    with PageServer(reader_of(store.directory), every=0.1) as running:
        yield running


def ask(
    server: PageServer, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, str]:
    port = int(server.address.split(":")[-1].rstrip("/"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=headers is not None)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read().decode()
    connection.close()
    return found


def test_it_answers_four_addresses_with_a_policy_and_no_other(server: PageServer) -> None:
    for path in ("/", "/state.json", "/watch.css", "/watch.js"):
        status, headers, text = ask(server, path)
        assert status == 200
        assert text
        assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert ask(server, path, "HEAD")[2] == ""


@pytest.mark.parametrize(
    "path",
    [
        "/manifest.json",
        "/../manifest.json",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/watch.html",
        "/?path=/etc/passwd",
    ],
)
def test_no_address_is_a_file(server: PageServer, path: str) -> None:
    status, headers, text = ask(server, path)
    assert (status, text) == (404, "nothing is here; the page is at /")
    assert "Content-Security-Policy" in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_it_is_read_only(server: PageServer, method: str) -> None:
    status, headers, _ = ask(server, "/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", None])
def test_another_name_of_this_machine_is_refused(server: PageServer, host: str | None) -> None:
    """A page from elsewhere whose name was pointed at this machine would ask by that name."""
    status, _, text = ask(server, "/state.json", headers={} if host is None else {"Host": host})
    assert status == 403
    assert "runs" not in text


def test_it_listens_on_the_loopback_address_alone(server: PageServer) -> None:
    port = int(server.address.split(":")[-1].rstrip("/"))
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    found = re.findall(rf"^\s*\d+: ([0-9A-F]+):{port:04X} \S+ 0A", listening, re.MULTILINE)
    assert found == [f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}"]


def test_a_port_that_is_taken_is_an_error_in_one_line(server: PageServer, store: Store) -> None:
    port = int(server.address.split(":")[-1].rstrip("/"))
    with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be used"):
        PageServer(reader_of(store.directory), port)


class Address:
    """What the browser is told to open."""

    def __init__(self, address: str) -> None:
        self._address = address

    def as_uri(self) -> str:
        return self._address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if EXECUTABLE is None:
        pytest.skip("chromium is not installed")
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.slow
def test_the_page_follows_a_store_that_grows(
    browser: Page, server: PageServer, store: Store
) -> None:
    browser.open(Address(server.address), width=390)
    assert browser.evaluate("document.querySelectorAll('#runs ~ .scroll tbody tr').length") == 1
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    browser.evaluate("document.querySelector('#runs ~ .scroll').focus()")
    name = finish(store, 2)
    browser.wait_for(f"document.querySelector('main').textContent.includes('{name}')")
    shown = browser.evaluate("document.querySelector('[role=status]').textContent")
    assert "2 runs finished, 1 of them diverged" in shown
    assert browser.evaluate("document.querySelectorAll('.curve.diverged').length") >= 1
    assert browser.evaluate("document.querySelector('#alarms') !== null")
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')") == "Runs"
    assert browser.evaluate("typeof window.pwned") == "undefined"
    assert (
        browser.evaluate("document.querySelectorAll('main script, main img, main a').length") == 0
    )
    assert browser.logged == []
    assert all(url.startswith((server.address, "data:")) for url in browser.requested)
    (store.directory / "manifest.json").unlink()
    browser.wait_for("document.querySelector('#lost').textContent.includes('holds no keelback')")
