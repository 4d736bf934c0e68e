"""JSON over HTTP with bounds on everything: size, time, attempts. Standard library only."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import TunesmithError, UserError, WorkFailed

KEY_VARIABLE = "TUNESMITH_API_KEY"
_RETRIED = (429, 500, 502, 503, 504)
_LONGEST_WAIT = 30.0
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Patience:
    """How long a server is given.

    Attributes:
        seconds: for one answer, from its request to its last byte. attempts: how often a request is made before it fails.
        first_wait: seconds before the second attempt; each further wait is twice as long, with up to a quarter added by chance.
        largest: bytes of an answer that are read before it is refused.
    """

    seconds: float = 180.0
    attempts: int = 6
    first_wait: float = 0.5
    largest: int = 32 << 20


@dataclass(frozen=True)
class Server:
    """One server that speaks JSON.

    Attributes:
        secure: https. path: what comes before every route, for example "/v1".
    """

    secure: bool
    host: str
    port: int
    path: str
    patience: Patience = Patience()

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}{self.path}"

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def call(self, route: str, body: Mapping[str, Any] | None = None, attempts: int | None = None) -> Any:
        """Return the JSON a route answers with; with a body it is posted, without one it is fetched.

        Busy servers (429, 5xx), broken connections and answers cut off are tried again; everything else fails at once.
        The API key comes from the environment and is in no message.

        Raises:
            UserError: the server refuses the key, or does not know the route or the model.
            WorkFailed: it cannot be reached, does not answer in time, or answers what cannot be used.
        """
        return self._parsed(self._answer(route, body, attempts))

    def tell(self, route: str, body: Mapping[str, Any]) -> None:
        """Post to a route whose answer says nothing but that all is well, in whatever form.

        Raises:
            UserError, WorkFailed: as of `call`.
        """
        self._answer(route, body, None)

    def _answer(self, route: str, body: Mapping[str, Any] | None, attempts: int | None) -> bytes:
        left = attempts or self.patience.attempts
        wait = self.patience.first_wait
        while True:
            left -= 1
            try:
                status, headers, content = self._once(route, body)
            # ssl.SSLError, timeouts and refused connections are all OSErrors.
            except (OSError, http.client.HTTPException) as error:
                if left <= 0 or isinstance(error, ssl.SSLCertVerificationError):
                    raise WorkFailed(f"{self.address}{_why(error, self.patience)}", _REACH) from error
            else:
                if status == 200:
                    return content
                if status not in _RETRIED or left <= 0:
                    raise self._refusal(route, status, content)
                wait = max(wait, min(_seconds(headers.get("Retry-After")), _LONGEST_WAIT))
            time.sleep(wait * (1 + random.SystemRandom().random() / 4))
            wait = min(2 * wait, _LONGEST_WAIT)

    def _once(self, route: str, body: Mapping[str, Any] | None) -> tuple[int, http.client.HTTPMessage, bytes]:
        deadline = time.monotonic() + self.patience.seconds
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=self.patience.seconds)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", self.path + route, data, headers)
            response = connection.getresponse()
            return response.status, response.headers, self._read(response, deadline)
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        """Read an answer to its end, to the size limit or to the deadline, whichever comes first."""
        pieces, size = [], 0
        while piece := response.read1(_BLOCK):
            # A server that sends a byte now and then would never run into the socket's own limit.
            if time.monotonic() > deadline:
                raise TimeoutError
            pieces.append(piece)
            size += len(piece)
            if size > self.patience.largest:
                raise WorkFailed(
                    f"{self.address} sent more than {self.patience.largest:,} bytes in one answer", "This is no language model."
                )
        if response.length:  # what the headers promised and the connection did not bring
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(pieces)

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise WorkFailed(f"{self.address} answered what is not JSON: {_excerpt(content)}", _REACH) from error

    def _refusal(self, route: str, status: int, content: bytes) -> TunesmithError:
        said = _message(content)
        if status in (401, 403):
            fix = f"Put its API key into the environment variable {KEY_VARIABLE}."
            return UserError(f"{self.address} refuses the API key (status {status}): {said}", fix)
        if status == 404:
            fix = "Check the path and the model's name: URL/v1#model-name. A server without /completions may need chat: true."
            return UserError(f"{self.address} has no {route}, or not this model (status 404): {said}", fix)
        if 300 <= status < 400:
            return UserError(f"{self.address} sends requests elsewhere (status {status}), which is not followed", _REACH)
        failed = f"{self.address}{route} failed with status {status}: {said}"
        return UserError(failed) if status < 500 and status not in _RETRIED else WorkFailed(failed, "Look at the server's log.")


_REACH = (
    "Check that the server runs and that the address is that of an OpenAI-compatible API, for example http://localhost:8000/v1."
)


def _why(error: Exception, patience: Patience) -> str:
    if isinstance(error, TimeoutError):
        return f" did not answer within {patience.seconds:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return " broke off in the middle of an answer"
    if isinstance(error, ConnectionRefusedError):
        return " cannot be reached: connection refused"
    return f" cannot be reached: {error or type(error).__name__}"


def _message(content: bytes) -> str:
    """The words a server explains an error with."""
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return _excerpt(content)
    for key in ("error", "message", "detail"):
        value = value.get(key, value) if isinstance(value, dict) else value
    return _excerpt((value if isinstance(value, str) else json.dumps(value)).encode())


def _excerpt(content: bytes) -> str:
    text = " ".join(content[:2000].decode("utf-8", "replace").split())
    # Some servers repeat the key they refuse.
    key = os.environ.get(KEY_VARIABLE)
    text = text.replace(key, "***") if key else text
    return "".join(c for c in text if c.isprintable())[:200] or "(nothing)"


def _seconds(header: str | None) -> float:
    try:
        return max(float(header or 0), 0.0)
    except ValueError:
        return 0.0
