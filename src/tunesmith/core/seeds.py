"""One seed goes in; every other number that must look random is derived from it by name."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed from a root seed and a path of names, for example derive(0, "order", epoch).

    The same path gives the same seed on every machine; different paths give unrelated ones (BLAKE2b).
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
