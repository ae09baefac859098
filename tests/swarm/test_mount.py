"""`cairn mount` with the kernel of this machine, real nodes, and programs that know nothing of it."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.mount.mount_point import mounted_type
from tests.patience import PATIENCE_S
from tests.swarm.command_line import cairn, cairn_json, error_of
from tests.swarm.mounting import lists, mounted, mounting, needs_fuse
from tests.swarm.people import People, gathering
from tests.swarm.processes import FULL, write_random

pytestmark = [pytest.mark.swarm, needs_fuse]

FILE_BYTES = 200_000_000 if FULL else 20_000_000


@dataclass(frozen=True)
class Shared:
    """A file and a folder that were put, and their links."""

    people: People
    file: Path
    file_link: str
    folder: Path
    folder_link: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Their own swarm: what `mine` shows is nobody else's."""
    folder = tmp_path_factory.mktemp("mount")
    with gathering(folder / "swarm", donors=4, donate="300MB" if not FULL else "2GB") as people:
        file = write_random(folder / "holiday film.bin", FILE_BYTES)
        tree = folder / "thesis"
        (tree / "parts" / "größe").mkdir(parents=True)
        (tree / "empty").write_bytes(b"")
        for number in range(30):
            write_random(tree / "parts" / f"{number}.txt", 4_000 + number, seed=number)
        script = tree / "parts" / "größe" / "run.sh"
        script.write_text("#!/bin/sh\necho it runs\n")
        script.chmod(0o755)
        yield Shared(
            people,
            file,
            cairn_json(people.sharer, "put", str(file), "--code", "4/8")["link"],
            tree,
            cairn_json(people.sharer, "put", str(tree))["link"],
        )


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_a_file_is_itself_byte_for_byte(shared: Shared, tmp_path: Path) -> None:
    with mounted(shared.people.friend, tmp_path / "m", shared.file_link) as mount:
        assert os.listdir(mount.folder) == [shared.file.name]
        path = mount.folder / shared.file.name
        assert run("cmp", shared.file, path).returncode == 0
        found = path.stat()
        assert (found.st_size, found.st_nlink, stat.S_IMODE(found.st_mode)) == (FILE_BYTES, 1, 0o444)
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
        space = os.statvfs(mount.folder)
        assert space.f_blocks * space.f_frsize >= FILE_BYTES
        assert (space.f_bavail, space.f_files) == (0, 1)
        assert mount.end() == 0
    assert os.listdir(tmp_path / "m") == []
    assert (tmp_path / "m.stderr").read_text() == ""


def test_ranges_anywhere_are_those_of_the_original(shared: Shared, tmp_path: Path) -> None:
    source = shared.file.read_bytes()
    chance = random.Random(7)
    with mounted(shared.people.friend, tmp_path / "m", "-", text=shared.file_link + "\n") as mount:
        descriptor = os.open(mount.folder / shared.file.name, os.O_RDONLY)
        try:
            for _ in range(60):
                start = chance.randrange(FILE_BYTES)
                count = chance.choice([1, 4096, 100_000, 1_000_000])
                assert os.pread(descriptor, count, start) == source[start : start + count]
            assert os.pread(descriptor, 10, FILE_BYTES) == b""
            assert os.pread(descriptor, 10, FILE_BYTES - 3) == source[-3:]
        finally:
            os.close(descriptor)


def test_several_readers_at_once_get_what_each_asked_for(shared: Shared, tmp_path: Path) -> None:
    source = shared.file.read_bytes()
    wrong: list[int] = []
    with mounted(shared.people.friend, tmp_path / "m", shared.file_link) as mount:

        def read(start: int) -> None:
            with (mount.folder / shared.file.name).open("rb", buffering=0) as file:
                file.seek(start)
                data = b""
                while piece := file.read(300_000):
                    data += piece
            if data != source[start:]:
                wrong.append(start)

        threads = [
            threading.Thread(target=read, args=(start,)) for start in (0, 0, 5_000_001, FILE_BYTES // 2)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(PATIENCE_S)
        assert not any(each.is_alive() for each in threads)
    assert wrong == []


def test_a_folder_is_its_tree(shared: Shared, tmp_path: Path) -> None:
    with mounted(shared.people.friend, tmp_path / "m", shared.folder_link) as mount:
        assert run("diff", "-r", shared.folder, mount.folder).stdout == ""
        seen = {
            path.relative_to(mount.folder): (path.stat().st_ino, path.is_dir())
            for path in mount.folder.rglob("*")
        }
        assert set(seen) == {path.relative_to(shared.folder) for path in shared.folder.rglob("*")}
        assert len({inode for inode, _ in seen.values()}) == len(seen)
        script = mount.folder / "parts" / "größe" / "run.sh"
        assert run(script).stdout == "it runs\n"
        assert stat.S_IMODE(script.stat().st_mode) == 0o555
        with pytest.raises(FileNotFoundError):
            (mount.folder / "parts" / "31.txt").stat()
        with pytest.raises(NotADirectoryError):
            (mount.folder / "empty" / "x").stat()
    with mounted(shared.people.sharer, tmp_path / "again", shared.folder_link) as mount:
        assert {path: (mount.folder / path).stat().st_ino for path in seen} == {
            path: inode for path, (inode, _) in seen.items()
        }


def test_nothing_can_be_written(shared: Shared, tmp_path: Path) -> None:
    with mounted(shared.people.friend, tmp_path / "m", shared.folder_link) as mount:
        for attempt in (
            lambda: (mount.folder / "new").write_text("x"),
            lambda: (mount.folder / "parts" / "1.txt").write_text("x"),
            lambda: (mount.folder / "parts" / "1.txt").unlink(),
            lambda: (mount.folder / "parts" / "1.txt").chmod(0o777),
            lambda: (mount.folder / "folder").mkdir(),
        ):
            with pytest.raises(OSError, match="Read-only file system"):
                attempt()


def test_umount_ends_it_and_a_busy_mount_ends_with_its_process(shared: Shared, tmp_path: Path) -> None:
    with mounted(shared.people.friend, tmp_path / "m", shared.folder_link) as mount:
        assert run("umount", mount.folder).returncode == 0
        assert mount.wait() == 0
    with mounted(shared.people.friend, tmp_path / "m", shared.folder_link) as mount:
        descriptor = os.open(mount.folder / "parts" / "1.txt", os.O_RDONLY)
        assert mount.end(signal.SIGTERM) == 0
        with pytest.raises(OSError, match="not connected"):
            os.close(descriptor)  # the file has gone with the process
        assert mounted_type(str(mount.folder)) is None


def test_a_mount_that_was_killed_is_taken_off_by_the_next(shared: Shared, tmp_path: Path) -> None:
    with mounted(shared.people.friend, tmp_path / "m", shared.folder_link) as mount:
        mount.process.kill()
        mount.process.wait()
        with pytest.raises(OSError, match="not connected"):
            os.listdir(mount.folder)
        with mounted(shared.people.friend, mount.folder, shared.folder_link) as again:
            assert (again.folder / "empty").read_bytes() == b""
            assert "a killed process left" in again.errors
            refused = cairn(shared.people.friend, "--json", "mount", shared.folder_link, str(mount.folder))
            assert (error_of(refused)["code"], "umount" in refused.stderr) == (2, True)
            assert again.end() == 0


def test_mine_shows_my_files_and_follows_the_list(shared: Shared, tmp_path: Path) -> None:
    node = shared.people.sharer
    with mounted(node, tmp_path / "m", "mine") as mount:
        names = {shared.file.name, shared.folder.name}
        assert lists(mount.folder, names)
        assert run("diff", "-r", shared.folder, mount.folder / shared.folder.name).stdout == ""
        with (mount.folder / shared.file.name).open("rb") as file:
            assert file.read(1_000) == shared.file.read_bytes()[:1_000]
        listed = {each["name"]: each for each in cairn_json(node, "ls")["files"]}
        assert (mount.folder / shared.file.name).stat().st_mtime == listed[shared.file.name]["created"]

        new = tmp_path / "later.txt"
        new.write_text("one")
        first = cairn_json(node, "put", str(new))["hash"]
        assert lists(mount.folder, {*names, "later.txt"})
        assert (mount.folder / "later.txt").read_text() == "one"
        new.write_text("two")
        second = cairn_json(node, "put", str(new))["hash"]
        both = {"later.txt", f"later ({second[-8:]}).txt"}
        assert lists(mount.folder, names | both) or lists(
            mount.folder, names | {"later.txt", f"later ({first[-8:]}).txt"}
        )
        assert {(mount.folder / name).read_text() for name in set(os.listdir(mount.folder)) - names} == {
            "one",
            "two",
        }
        cairn_json(node, "rm", first)
        assert lists(mount.folder, {*names, "later.txt"})
        assert (mount.folder / "later.txt").read_text() == "two"
        cairn_json(node, "rm", second)
        assert lists(mount.folder, names)
        assert mount.end() == 0


def test_a_password_link_needs_its_password(shared: Shared, tmp_path: Path) -> None:
    source, right, wrong = tmp_path / "secret", tmp_path / "right", tmp_path / "wrong"
    source.write_text("the treasure")
    right.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    people = shared.people
    put = cairn_json(people.sharer, "put", str(source), "--password-file", str(right))
    try:
        for words, code in (([], 2), (["--password-file", str(wrong)], 12)):
            with mounting(people.friend, tmp_path / "m", *words, put["link"]) as mount:
                assert mount.document()["error"]["code"] == code
                assert mount.wait() == code
        with mounted(people.friend, tmp_path / "m", "--password-file", str(right), put["link"]) as mount:
            assert (mount.folder / "secret").read_text() == "the treasure"
    finally:
        cairn_json(people.sharer, "rm", put["hash"])


def test_what_can_not_be_mounted_is_said_in_one_line(shared: Shared, tmp_path: Path) -> None:
    people, link = shared.people, shared.folder_link
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("x")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, code, words in (
        (tmp_path / "missing", 2, "mkdir"),
        (full / "mine", 2, "not a folder"),
        (full, 2, "choose an empty folder"),
    ):
        error = error_of(cairn(people.friend, "--json", "mount", link, str(folder)))
        assert (error["code"], words in error["message"]) == (code, True)
    cut = link.partition("#")[0]
    for wrong, code in (("nonsense", 2), (cut, 22), (cut.removeprefix("cairn:"), 22), (link[:-3], 2)):
        error = error_of(cairn(people.friend, "--json", "mount", wrong, str(empty)))
        assert error["code"] == code
    (tmp_path / "home").mkdir()
    error = error_of(
        cairn(people.friend, "--json", "mount", link, str(empty), "--home", str(tmp_path / "home"))
    )
    assert error["code"] == 4
    assert mounted_type(str(empty)) is None
