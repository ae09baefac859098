"""What every `KeyValue` promises: LMDB and the simulated one, against a plain dict too."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import StoreError
from node.ports import KeyValue, WriteTransaction
from node.system.lmdb_store import LmdbStore
from simulations.key_value import FakeKeyValue


@contextmanager
def opened(kind: str) -> Iterator[KeyValue]:
    if kind == "fake":
        yield FakeKeyValue()
        return
    with tempfile.TemporaryDirectory() as folder:
        store = LmdbStore(Path(folder), map_bytes=64 * 1024)
        try:
            yield store
        finally:
            store.close()


@pytest.fixture(params=["lmdb", "fake"])
def tables(request: pytest.FixtureRequest) -> Iterator[KeyValue]:
    with opened(request.param) as key_values:
        yield key_values


def put(tables: KeyValue, table: str, **items: bytes) -> None:
    def change(transaction: WriteTransaction) -> None:
        for key, value in items.items():
            transaction.put(table, key.encode(), value)

    tables.update(change)


def test_unknown_tables_are_empty(tables: KeyValue) -> None:
    with tables.view() as view:
        assert view.get("t", b"k") is None
        assert view.count("t") == 0
        assert list(view.scan("t")) == []
    assert tables.update(lambda transaction: transaction.delete("t", b"k")) is False


def test_a_transaction_sees_its_own_changes_and_returns_its_result(tables: KeyValue) -> None:
    def change(transaction: WriteTransaction) -> list[tuple[bytes, bytes]]:
        transaction.put("t", b"b", b"2")
        transaction.put("t", b"a", b"1")
        transaction.put("t", b"c", b"3")
        assert transaction.delete("t", b"c")
        assert not transaction.delete("t", b"c")
        assert transaction.count("t") == 2
        return list(transaction.scan("t"))

    assert tables.update(change) == [(b"a", b"1"), (b"b", b"2")]


def test_an_exception_leaves_nothing_behind(tables: KeyValue) -> None:
    put(tables, "t", a=b"1")

    def change(transaction: WriteTransaction) -> None:
        transaction.put("t", b"a", b"changed")
        transaction.put("new", b"b", b"2")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tables.update(change)
    with tables.view() as view:
        assert view.get("t", b"a") == b"1"
        assert view.get("new", b"b") is None


def test_a_view_does_not_change_while_it_is_open(tables: KeyValue) -> None:
    put(tables, "t", a=b"1")
    with tables.view() as view:
        values = dict(view.scan("t"))
        with pytest.raises(StoreError):
            put(tables, "t", a=b"2")  # the same thread: refused, it could wait for itself
        assert dict(view.scan("t")) == values
    put(tables, "t", a=b"2")
    with tables.view() as view:
        assert view.get("t", b"a") == b"2"


def test_scan_honours_prefix_and_start(tables: KeyValue) -> None:
    put(tables, "t", a1=b"", a2=b"", a3=b"", b1=b"", b2=b"")
    with tables.view() as view:
        assert [key for key, _ in view.scan("t", b"a")] == [b"a1", b"a2", b"a3"]
        assert [key for key, _ in view.scan("t", b"a", b"a2")] == [b"a2", b"a3"]
        assert [key for key, _ in view.scan("t", b"", b"a3")] == [b"a3", b"b1", b"b2"]
        assert [key for key, _ in view.scan("t", b"b", b"a")] == [b"b1", b"b2"]
        assert [key for key, _ in view.scan("t", b"a", b"b")] == []
        assert list(view.scan("t", b"c")) == []


def test_deleting_while_scanning_visits_every_item_once(tables: KeyValue) -> None:
    put(tables, "t", **{f"{number:04}": b"v" for number in range(1000)})

    def change(transaction: WriteTransaction) -> int:
        return sum(transaction.delete("t", key) for key, _ in transaction.scan("t"))

    assert tables.update(change) == 1000
    with tables.view() as view:
        assert view.count("t") == 0


@pytest.mark.parametrize("key", [b"", b"x" * 512])
def test_keys_have_1_to_511_bytes(tables: KeyValue, key: bytes) -> None:
    put(tables, "t", a=b"1")
    with pytest.raises(StoreError):
        tables.update(lambda transaction: transaction.put("t", key, b""))
    tables.update(lambda transaction: transaction.put("t", b"x" * 511, b""))


def test_a_closed_store_refuses_and_closes_again(tables: KeyValue) -> None:
    tables.close()
    tables.close()
    with pytest.raises(StoreError), tables.view():
        pass
    with pytest.raises(StoreError):
        put(tables, "t", a=b"1")


KEYS = st.binary(min_size=1, max_size=3)
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from("tu"), KEYS, st.binary(max_size=9))
)


@pytest.mark.parametrize("kind", ["lmdb", "fake"])
@settings(max_examples=40, deadline=None)
@given(transactions=st.lists(st.tuples(STEPS, st.booleans()), max_size=6))
def test_equals_a_dict(
    kind: str, transactions: list[tuple[list[tuple[str, str, bytes, bytes]], bool]]
) -> None:
    model: dict[str, dict[bytes, bytes]] = {"t": {}, "u": {}}
    with opened(kind) as key_values:
        for steps, is_aborted in transactions:
            draft = {name: dict(content) for name, content in model.items()}

            def change(
                transaction: WriteTransaction,
                steps: list[tuple[str, str, bytes, bytes]] = steps,
                draft: dict[str, dict[bytes, bytes]] = draft,
                is_aborted: bool = is_aborted,
                before: dict[str, dict[bytes, bytes]] = model,
            ) -> None:
                for name, content in before.items():
                    draft[name] = dict(content)
                for action, table, key, value in steps:
                    if action == "put":
                        transaction.put(table, key, value)
                        draft[table][key] = value
                    else:
                        assert transaction.delete(table, key) == (draft[table].pop(key, None) is not None)
                    assert transaction.get(table, key) == draft[table].get(key)
                if is_aborted:
                    raise KeyError

            try:
                key_values.update(change)
                model = draft
            except KeyError:
                assert is_aborted
            with key_values.view() as view:
                for name, content in model.items():
                    assert list(view.scan(name)) == sorted(content.items())
                    assert view.count(name) == len(content)
