"""Outputs on disk: resumed only if true, complete or absent, never through a link, never over a file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chunks.get import output
from node.chunks.get.output import FileOutput, ResumePoint, choose_target, side_names
from node.errors import OutputExistsError, ProtocolError, StoreFullError, UsageError

DATA = bytes(range(256)) * 40
IDENTITY = b"i" * 40


def _open(target: Path, *, identity: bytes = IDENTITY, force: bool = False) -> FileOutput:
    return FileOutput(target, identity=identity, length=len(DATA), force=force)


def _partial(target: Path, count: int, *, force: bool = False) -> None:
    partial = _open(target, force=force)
    partial.write(DATA[:count])
    partial.close()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_complete_output_stands_alone_under_its_name(tmp_path: Path) -> None:
    out = _open(tmp_path / "x")
    out.write(DATA)
    assert not (tmp_path / "x").exists()
    assert out.finish() == tmp_path / "x"
    out.close()
    assert (tmp_path / "x").read_bytes() == DATA
    assert _names(tmp_path) == ["x"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("count", [0, 1, 5000, len(DATA)])
def test_a_partial_output_is_resumed(tmp_path: Path, count: int) -> None:
    _partial(tmp_path / "x", count)
    assert "x" not in _names(tmp_path)
    out = _open(tmp_path / "x")
    assert out.done_bytes == count
    out.write(DATA[count:])
    out.finish()
    assert (tmp_path / "x").read_bytes() == DATA
    assert _names(tmp_path) == ["x"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, force: bool) -> None:
    """As root, `-o /dev/null --force` would take the device away from everybody."""
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UsageError, match="is no file"):
        _open(tmp_path / "x", force=force)
    assert _names(tmp_path) == ["x"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a folder"):
        _open(tmp_path / "file" / "x", force=force)


def test_what_came_after_the_last_checkpoint_is_cut_off(tmp_path: Path) -> None:
    _partial(tmp_path / "x", 100)
    with (tmp_path / "x.cairn-part").open("ab") as part:
        part.write(b"unsynced")
    out = _open(tmp_path / "x")
    assert out.done_bytes == 100
    out.write(DATA[100:])
    assert out.finish().read_bytes() == DATA


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "resume", "no_resume"])
def test_a_partial_output_that_is_not_what_it_was_starts_anew(tmp_path: Path, damage: str) -> None:
    _partial(tmp_path / "x", 1000)
    part, resume = tmp_path / "x.cairn-part", tmp_path / "x.cairn-resume"
    identity = IDENTITY
    if damage == "flip":
        part.write_bytes(b"\xff" + DATA[1:1000])
    elif damage == "cut":
        part.write_bytes(DATA[:999])
    elif damage == "other":
        identity = b"j" * 40
    elif damage == "resume":
        resume.write_bytes(b"\x96junk")
    else:
        resume.unlink()
    out = _open(tmp_path / "x", identity=identity)
    assert out.done_bytes == 0
    out.write(DATA)
    assert out.finish().read_bytes() == DATA


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"mine")
    with pytest.raises(OutputExistsError) as raised:
        _open(target)
    assert raised.value.exit_code == 2
    assert target.read_bytes() == b"mine"
    out = _open(target, force=True)
    out.write(DATA)
    assert target.read_bytes() == b"mine"
    out.finish()
    assert target.read_bytes() == DATA


def test_a_file_that_appeared_meanwhile_is_kept_and_nothing_is_lost(tmp_path: Path) -> None:
    out = _open(tmp_path / "x")
    out.write(DATA)
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        out.finish()
    out.close()
    assert (tmp_path / "x").read_bytes() == b"mine"
    again = _open(tmp_path / "x", force=True)
    assert again.done_bytes == len(DATA)
    assert again.finish().read_bytes() == DATA


def test_a_link_at_the_target_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "x").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("x", "dangling"):
        with pytest.raises(OutputExistsError):
            _open(tmp_path / name)
    out = _open(tmp_path / "x", force=True)
    out.write(DATA)
    out.finish()
    assert not (tmp_path / "x").is_symlink()
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_link_under_the_partial_name_is_not_written_through(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = tmp_path / "x.cairn-part"
    if kind == "symbolic":
        part.symlink_to(victim)
    else:
        part.hardlink_to(victim)
    out = _open(tmp_path / "x")
    out.write(DATA)
    out.finish()
    assert victim.read_bytes() == b"precious"


def test_a_link_under_the_resume_name_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "x.cairn-resume").symlink_to(victim)
    (tmp_path / "x.cairn-resume~").symlink_to(victim)
    _partial(tmp_path / "x", 10)
    assert victim.read_bytes() == b"precious"
    assert _open(tmp_path / "x").done_bytes == 10


def test_two_gets_of_one_output_do_not_mix(tmp_path: Path) -> None:
    first = _open(tmp_path / "x")
    with pytest.raises(UsageError, match="being fetched already"):
        _open(tmp_path / "x")
    first.close()
    _open(tmp_path / "x").close()


def test_a_file_system_without_hard_links_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    out = _open(tmp_path / "x")
    out.write(DATA)
    out.finish()
    assert (tmp_path / "x").read_bytes() == DATA
    out = FileOutput(tmp_path / "y", identity=IDENTITY, length=0)
    (tmp_path / "y").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        out.finish()
    out.close()
    assert (tmp_path / "y").read_bytes() == b"mine"


def test_a_full_disk_is_said_and_leaves_a_resumable_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _open(tmp_path / "x")
    out.write(DATA[:10])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(output, "write_all", full)
        with pytest.raises(StoreFullError):
            out.write(DATA[10:])
    out.close()
    assert _open(tmp_path / "x").done_bytes == 10


def test_a_disk_too_full_for_the_resume_point_leaves_the_one_before_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    _partial(tmp_path / "x", 1000)
    out = _open(tmp_path / "x")
    out.write(DATA[1000:2000])
    with monkeypatch.context() as patched:
        patched.setattr(output, "write_all", full)
        with pytest.raises(StoreFullError):
            out.close()
    assert _names(tmp_path) == sorted(side_names("x"))
    out = _open(tmp_path / "x")
    assert out.done_bytes == 1000
    (tmp_path / (side_names("x")[1] + "~")).write_bytes(b"cut off by a crash")
    out.write(DATA[1000:])
    out.finish()
    out.close()
    assert _names(tmp_path) == ["x"]


def test_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        _open(tmp_path / "missing" / "x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(OutputExistsError):
        _open(tmp_path / "dir", force=True)


def test_a_folder_as_output_takes_the_files_own_name(tmp_path: Path) -> None:
    assert choose_target(tmp_path, "x") == tmp_path / "x"
    assert choose_target(tmp_path / "new", "x") == tmp_path / "new"
    (tmp_path / "link").symlink_to(tmp_path)
    assert choose_target(tmp_path / "link", "x") == tmp_path / "link"


def test_long_names_have_short_enough_partial_names(tmp_path: Path) -> None:
    name = "ä" * 127
    assert all(len(side.encode()) <= 255 for side in side_names(name))
    assert side_names(name) != side_names(name[:-1] + "b")
    _partial(tmp_path / name, 10)
    assert _open(tmp_path / name).done_bytes == 10


@given(st.binary(max_size=100), st.integers(0, 2**63 - 1), st.data())
def test_a_resume_point_survives_its_encoding(identity: bytes, length: int, data: st.DataObject) -> None:
    point = ResumePoint(identity, length, data.draw(st.integers(0, length)), bytes(32))
    assert ResumePoint.decode(point.encode()) == point


@pytest.mark.parametrize("content", [b"", b"\x90", ResumePoint(b"", 5, 9, bytes(32)).encode(), bytes(300)])
def test_a_damaged_resume_point_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        ResumePoint.decode(content)
