"""The cache of stripes against a model, and its bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.mount.block_cache import BlockCache


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 40)), max_size=60))
def test_it_keeps_the_youngest_within_its_bound(steps: list[tuple[bool, int, int]]) -> None:
    cache = BlockCache(100)
    model: dict[int, bytes] = {}
    for is_put, key, size in steps:
        if is_put:
            model.pop(key, None)
            model[key] = bytes([key]) * size
            cache.put(key, model[key])
            while sum(map(len, model.values())) > 100 and len(model) > 1:
                del model[next(iter(model))]
        else:
            found = cache.get(key)
            assert found == model.get(key)
            if found is not None:
                model[key] = model.pop(key)
        assert cache.used_bytes == sum(map(len, model.values())) <= 100


def test_what_is_longer_than_the_bound_stays_alone() -> None:
    cache = BlockCache(10)
    cache.put("a", b"x")
    cache.put("b", bytes(50))
    assert cache.get("a") is None
    assert cache.get("b") == bytes(50)
