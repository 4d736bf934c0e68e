"""Every test runs offline, on two threads, from one seed."""

import os

os.environ.update(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="2", MKL_NUM_THREADS="2", MPLBACKEND="Agg"
)  # fmt: skip  before any test imports torch, transformers or matplotlib

import atexit
import ipaddress
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()  # read when trackio is imported; nobody's own runs are touched
atexit.register(shutil.rmtree, os.environ["TRACKIO_DIR"], ignore_errors=True)

settings.register_profile("tunesmith", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("tunesmith")


def is_local(address: Any) -> bool:
    """Whether a socket address is a Unix path or on the loopback interface."""
    if not isinstance(address, tuple):
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection that would leave this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            real = getattr(socket.socket, name)

            def guarded(self: socket.socket, address: Any, real: Any = real) -> Any:
                if not is_local(address):
                    raise PermissionError(f"a test tried to connect to {address}; tests work offline")
                return real(self, address)

            patch.setattr(socket.socket, name, guarded)
        yield


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave torch's threads as they were; trainings of toy size have one, since a second would only wait for the first."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch and request.path.parent.name in ("peft", "train"):
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, in the libraries that are loaded."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
