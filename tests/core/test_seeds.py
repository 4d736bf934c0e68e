"""Derived seeds are fixed for ever and unrelated to each other."""

import hashlib

from tunesmith.core.seeds import derive


def test_a_derived_seed_is_half_of_a_blake2b_hash() -> None:
    for path in ((0,), (0, "order", 3), (7, "sample", "ä")):
        text = "\x1f".join(map(str, path))
        assert derive(*path) == int(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), 16) // 2
    # Written down once, so that no version of Tunesmith can change what a seed means.
    assert derive(0, "order", 0) == 5724104768301139219


def test_different_paths_give_different_seeds_of_63_bits() -> None:
    seeds = {derive(seed, name, epoch) for seed in range(10) for name in ("order", "sample") for epoch in range(100)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
