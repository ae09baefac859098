"""What is LMDB's own: a map that grows under readers, threads, tables that stay."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from node.errors import DamagedStoreError, StoreError
from node.ports import WriteTransaction
from node.system.lmdb_store import LmdbStore, is_damaged, open_anew_if_damaged


def test_the_map_grows_by_itself_and_the_change_runs_again(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_bytes=64 * 1024)
    runs = 0

    def change(transaction: WriteTransaction) -> None:
        nonlocal runs
        runs += 1
        for number in range(3000):
            transaction.put("t", number.to_bytes(4, "big"), bytes(500))

    store.update(change)
    assert runs > 2
    with store.view() as view:
        assert view.count("t") == 3000
    store.close()


def test_one_large_value_grows_the_map(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_bytes=64 * 1024)
    store.update(lambda transaction: transaction.put("t", b"k", bytes(5_000_000)))
    with store.view() as view:
        assert view.get("t", b"k") == bytes(5_000_000)
    store.close()


def test_growth_waits_for_open_views_and_holds_new_ones_back(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_bytes=64 * 1024)
    store.update(lambda transaction: transaction.put("t", b"k", b"before"))
    growing = threading.Event()
    view_closed = threading.Event()
    seen_closed = []

    def grow() -> None:
        def change(transaction: WriteTransaction) -> None:
            growing.set()
            transaction.put("t", b"big", bytes(2_000_000))
            seen_closed.append(view_closed.is_set())

        store.update(change)

    writer = threading.Thread(target=grow)
    with store.view() as view:
        writer.start()
        assert growing.wait(10)
        for _ in range(2000):
            assert view.get("t", b"k") == b"before"
        view_closed.set()
    writer.join(10)
    assert not writer.is_alive()
    # The put that fitted ran in the map made larger: after the view had gone.
    assert seen_closed == [True]
    store.close()


def test_many_threads_read_and_write(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_bytes=64 * 1024)
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(30):
                key = bytes([name, number])
                store.update(lambda transaction, key=key: transaction.put("t", key, key * 2000))  # type: ignore[misc]
                with store.view() as view:
                    for found, value in view.scan("t"):
                        assert value == found * 2000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.view() as view:
        assert view.count("t") == 180
    store.close()


def test_tables_stay_after_closing(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.update(lambda transaction: transaction.put("one", b"k", b"v"))
    store.update(lambda transaction: transaction.put("two", b"k", b"w"))
    store.close()
    again = LmdbStore(tmp_path)
    with again.view() as view:
        assert (view.get("one", b"k"), view.get("two", b"k")) == (b"v", b"w")
    again.close()


def test_values_outlive_their_transaction(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.update(lambda transaction: transaction.put("t", b"k", b"first"))
    with store.view() as view:
        value = view.get("t", b"k")
        items = list(view.scan("t"))
    for number in range(50):
        store.update(lambda transaction, n=number: transaction.put("t", b"k", bytes([n]) * 5))  # type: ignore[misc]
    assert value == b"first"
    assert items == [(b"k", b"first")]
    with pytest.raises(StoreError):
        view.get("t", b"k")
    store.close()


def test_the_files_are_the_users_alone_and_small(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "index")
    store.update(lambda transaction: transaction.put("t", b"k", b"v"))
    for path in (tmp_path / "index").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert path.stat().st_blocks * 512 < 256 * 1024
    store.close()


def filled(folder: Path) -> Path:
    """A closed store of some hundred pages; its file."""
    store = LmdbStore(folder)
    for table in "ab":
        store.update(
            lambda transaction, table=table: [  # type: ignore[misc]
                transaction.put(table, number.to_bytes(4, "big"), bytes([number % 256]) * 500)
                for number in range(1000)
            ]
        )
    store.close()
    return folder / "data.mdb"


def read_all(store: LmdbStore) -> int:
    with store.view() as view:
        return sum(1 for table in "ab" for _ in view.scan(table))


@pytest.mark.parametrize("size", [1, 100, 5_000])
def test_a_file_that_is_none_is_damage(tmp_path: Path, size: int) -> None:
    path = filled(tmp_path / "index")
    path.write_bytes(b"\x55" * size)
    with pytest.raises(DamagedStoreError, match=r"index is damaged"):
        LmdbStore(tmp_path / "index")
    store, damage = open_anew_if_damaged(tmp_path / "index")
    assert damage is not None
    assert read_all(store) == 0
    store.close()
    assert not is_damaged(tmp_path / "index")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("is_cut", [True, False])
def test_pages_that_are_gone_are_damage_and_the_next_start_begins_anew(
    tmp_path: Path, part: float, is_cut: bool
) -> None:
    path = filled(tmp_path / "index")
    size = path.stat().st_size
    keep = max(8192, int(size * part))
    with path.open("r+b") as file:
        file.truncate(keep)
        if not is_cut:
            file.truncate(size)

    def use() -> None:
        store = LmdbStore(tmp_path / "index")
        try:
            read_all(store)
        finally:
            store.close()

    with pytest.raises(DamagedStoreError, match=r"index is damaged"):
        use()
    assert is_damaged(tmp_path / "index")
    store, damage = open_anew_if_damaged(tmp_path / "index")
    assert damage is not None
    store.update(lambda transaction: transaction.put("a", b"k", b"v"))
    store.close()
    again, damage = open_anew_if_damaged(tmp_path / "index")
    assert damage is None
    assert read_all(again) == 1
    again.close()
