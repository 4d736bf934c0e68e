"""Work that ends in the middle, inside the process that tests it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def dying(where: Any, name: str, call: int) -> Iterator[None]:
    """Inside the with-block the n-th call of `where.name` ends what goes on, as nothing that it catches does; it must come."""

    class Dead(BaseException):
        pass

    real, calls = getattr(where, name), 0

    def dies(*rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Dead
        return real(*rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, dies)
        with pytest.raises(Dead):
            yield
