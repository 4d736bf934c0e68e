"""The store against a real package index on this machine: partial transfers, wrong bytes, logins, and no index at all."""

import base64
import hashlib
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tunesmith.core import store
from tunesmith.core.errors import WorkFailed
from tunesmith.core.store import Archive, cache_folder, fetch, prepared

CONTENT = random.Random(0).randbytes(600_000)
NAME = "some_package-1.0-py3-none-any.whl"
ARCHIVE = Archive("some-package", NAME, hashlib.sha256(CONTENT).hexdigest(), 1, "MIT", "Someone 2020")


@dataclass
class Index:
    """A package index: what it serves, how it misbehaves, and what it was asked."""

    content: bytes = CONTENT
    listed: str = f'<a href="../../files/{NAME}#sha256=0">{NAME}</a>'
    break_after: list[int] = field(default_factory=list)  # bytes of the next answers after which the connection ends
    fail: list[int] = field(default_factory=list)  # status codes of the next answers
    ranges: bool = True
    login: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


def handler_of(index: Index) -> type[BaseHTTPRequestHandler]:
    """Build the handler that serves an index page and a file with byte ranges."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def answer(self, status: int, body: bytes, cut: int | None = None) -> None:
            """Send an answer, perhaps only its beginning."""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            self.close_connection = True

        def do_GET(self) -> None:
            """Serve the page or the file."""
            wanted = self.headers.get("Range")
            index.asked.append((self.path, wanted))
            if index.fail:
                return self.answer(index.fail.pop(0), b"no")
            if index.login and self.headers.get("Authorization") != "Basic " + base64.b64encode(index.login.encode()).decode():
                return self.answer(401, b"who are you?")
            if self.path == "/simple/some-package/":
                return self.answer(200, f"<a href='x'>other</a>{index.listed}".encode())
            cut = index.break_after.pop(0) if index.break_after else None
            if not wanted or not index.ranges:
                return self.answer(200, index.content, cut)
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(index.content):
                return self.answer(416, b"")
            return self.answer(206, index.content[start:], cut)

    return Handler


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """A running index that is the configured one, and an empty cache."""
    index = Index()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(index))
    index.address = f"127.0.0.1:{server.server_address[1]}/simple"
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{index.address}")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(store, "_WAITS", (0.0, 0.0, 0.0))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield index
    server.shutdown()
    thread.join()
    server.server_close()


def partial() -> Path:
    """Where a transfer that is under way keeps its bytes."""
    path = cache_folder() / "archives" / f"{NAME}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_an_archive_is_fetched_once(index: Index) -> None:
    path = fetch(ARCHIVE)
    assert path.read_bytes() == CONTENT
    assert fetch(ARCHIVE) == path
    assert index.asked == [("/simple/some-package/", None), (f"/files/{NAME}", None)]
    assert [f.name for f in path.parent.iterdir()] == [NAME]


def test_a_broken_transfer_goes_on_where_it_stopped(index: Index) -> None:
    index.break_after = [250_000, 100_000]
    assert fetch(ARCHIVE).read_bytes() == CONTENT
    assert [wanted for path, wanted in index.asked if path.endswith(NAME)] == [None, "bytes=250000-", "bytes=350000-"]


def test_a_transfer_of_an_earlier_process_goes_on_too(index: Index) -> None:
    partial().write_bytes(CONTENT[:599_999])
    assert fetch(ARCHIVE).read_bytes() == CONTENT
    assert index.asked[-1] == (f"/files/{NAME}", "bytes=599999-")


def test_a_whole_partial_file_is_not_fetched_again(index: Index) -> None:
    partial().write_bytes(CONTENT)
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_an_index_without_ranges_is_read_from_the_start(index: Index) -> None:
    index.ranges = False
    partial().write_bytes(b"x" * 1000)
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_errors_that_pass_are_tried_again(index: Index) -> None:
    index.fail = [503, 500, 429]
    assert fetch(ARCHIVE).read_bytes() == CONTENT
    assert len(index.asked) == 3 + 2


def test_errors_that_stay_are_told_with_what_to_do(index: Index) -> None:
    index.fail = [503] * 9
    with pytest.raises(WorkFailed) as error:
        fetch(ARCHIVE)
    assert str(error.value) == (
        f"{NAME} (1 MB) is neither in the cache nor reachable: HTTP Error 503: Service Unavailable\n"
        f"  Connect once and run 'tunesmith fetch', or put the file into {partial().parent}; after that all works offline."
    )
    assert len(index.asked) == 4


def test_wrong_bytes_are_refused_and_deleted(index: Index) -> None:
    index.content = CONTENT[:-1] + b"!"
    with pytest.raises(WorkFailed, match="is not the file that was pinned"):
        fetch(ARCHIVE)
    assert list(partial().parent.iterdir()) == []
    index.content = CONTENT
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_a_damaged_copy_in_the_cache_is_replaced(index: Index) -> None:
    (partial().parent / NAME).write_bytes(CONTENT[:-1])
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_a_file_put_into_the_cache_by_hand_is_used_offline(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    (partial().parent / NAME).write_bytes(CONTENT)
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_a_file_the_index_does_not_list_is_an_error(index: Index) -> None:
    index.listed = f'<a href="x/{NAME}.metadata">x</a>'
    with pytest.raises(WorkFailed, match="the package index does not list"):
        fetch(ARCHIVE)


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/simple", "nonsense", "http://127.0.0.1:port/simple"])
def test_without_an_index_the_error_says_what_to_do(index: Index, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", address.format(port=closed.getsockname()[1]))
        with pytest.raises(WorkFailed, match=r"(?s)neither in the cache nor reachable: .*Connect once and run 'tunesmith fetch'"):
            fetch(ARCHIVE)


def test_a_private_index_gets_the_login_of_its_address_and_no_message_shows_it(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.login = "me:p@ss word"
    index.listed = f'<a href="http://me:p%40ss%20word@{index.address}/{NAME}">x</a>'
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:p%40ss%20word@{index.address}")
    assert fetch(ARCHIVE).read_bytes() == CONTENT
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:wrong@{index.address}")
    (partial().parent / NAME).unlink()
    with pytest.raises(WorkFailed, match="401") as error:
        fetch(ARCHIVE)
    assert "wrong" not in str(error.value)


def test_the_index_is_the_one_pip_is_configured_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nindex-url = http://127.0.0.1:9/mirror\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    assert store._index() == "http://127.0.0.1:9/mirror"
    configuration.write_text("[global]\nindex-url = http://127.0.0.1:9/mirror\n[install]\nindex-url = http://127.0.0.1:9/it's\n")
    assert store._index() == "http://127.0.0.1:9/it's"
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/other")
    assert store._index() == "http://127.0.0.1:9/other"


def build(archive: Path, folder: Path) -> None:
    """Make one file of an archive."""
    (folder / "size.txt").write_text(str(len(archive.read_bytes())))


def test_what_is_prepared_is_prepared_once_and_its_archive_is_removed(index: Index) -> None:
    folder = prepared("thing", ARCHIVE, build)
    assert folder == cache_folder() / f"thing-{ARCHIVE.sha256[:8]}-v1"
    assert (folder / "size.txt").read_text() == "600000"
    assert list(partial().parent.iterdir()) == []
    asked = len(index.asked)
    assert prepared("thing", ARCHIVE, build) == folder
    assert len(index.asked) == asked
    assert prepared("thing", ARCHIVE, build, version=2).name.endswith("-v2")


def test_a_build_that_fails_leaves_nothing_half_done(index: Index) -> None:
    def fails(archive: Path, folder: Path) -> None:
        build(archive, folder)
        raise WorkFailed("no room")

    with pytest.raises(WorkFailed, match="no room"):
        prepared("thing", ARCHIVE, fails)
    assert [f.name for f in cache_folder().iterdir() if not f.name.endswith(".lock")] == ["archives"]
    assert (prepared("thing", ARCHIVE, build) / "MANIFEST.json").is_file()


def test_two_processes_prepare_a_thing_together_and_do_it_once(index: Index) -> None:
    code = (
        "import sys, time, pathlib\nfrom tunesmith.core.store import Archive, prepared\n"
        "def build(archive, folder):\n    time.sleep(0.4)\n    (folder / 'x').write_text('x')\n    print('built')\n"
        f"print(prepared('thing', {ARCHIVE!r}, build))\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted((process.communicate()[0].splitlines() for process in both), key=len)
    folder = str(cache_folder() / f"thing-{ARCHIVE.sha256[:8]}-v1")
    assert said == [[folder], ["built", folder]]
    assert [path for path, _ in index.asked].count(f"/files/{NAME}") == 1


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TUNESMITH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "tunesmith"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tunesmith"
