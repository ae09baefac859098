"""The command line as a process: words, exit codes, one JSON document, start-up."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cli
from node import __version__
from node.control.arguments import parse
from node.control.commands import COMMANDS, parse_share
from node.control.render import _RENDERERS
from node.errors import UsageError
from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("trio", "libp2p", "nacl", "hypercorn", "rich", "numpy", "lmdb", "blake3", "multiaddr")


def cairn(*words: str, home: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "--home", str(home), *words],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        ["put", "--help"],
        ["put", "--version"],
        ["status", "--home", "/nonexistent"],
    ],
)
def test_light_commands_import_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys, cli\n"
        "try:\n    cli.run(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_version_needs_not_even_the_parser() -> None:
    script = "import sys, cli; cli.run(['--version']); print('typer' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.splitlines() == [f"cairn {__version__}", "False"]


def test_the_version_is_the_package_s() -> None:
    assert __version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_command_is_parsed_run_and_rendered() -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            parse([name, "--help"])
        assert ended.value.code == 0
    assert set(COMMANDS) - set(_RENDERERS) == {"run", "mount"}  # they say what there is when it begins


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit):
            parse([*words, "--help"])
        assert re.search(r"examples:\n +cairn ", capsys.readouterr().out)


def test_common_options_stand_before_and_after_the_command() -> None:
    before = parse(["--home", "/h", "--json", "-v", "recovery", "show"])
    after = parse(["recovery", "show", "--home", "/h", "--json", "-v"])
    assert before == after
    assert (before.home, before.json, before.verbose) == ("/h", True, 1)
    assert parse(["--home", "/a", "status", "--home", "/b"]).home == "/b"
    assert (parse(["status"]).home, parse(["status"]).json) == (None, False)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["put"],
        ["put", "a", "b"],
        ["put", "x", "--expires", "soon"],
        ["get", "cairn:x", "--range", "9-1"],
        ["get", "cairn:x", "--range", "a-b"],
        ["get", "-"],
        ["get", "cairn:x", "-o", "-"],
        ["get", "cairn:x", "--password-file", "/nonexistent"],
        ["run", "--web", "127.0.0.1:0", "--no-web"],
        ["run", "--donate", "much"],
        ["run", "--donate", "5"],
        ["donate", "1GiB", "--pledge", "200%"],
        ["recovery"],
        ["recovery", "forget"],
        ["recovery", "passphrase"],
        ["recovery", "passphrase", "--new-passphrase-file", "/nonexistent"],
        ["recovery", "passphrase", "--remove", "--new-passphrase-file", "x"],
        ["run", "--passphrase-file", "/nonexistent"],
        ["demo", "--nodes", "2"],
        ["demo", "--nodes", "12", "--kill", "11"],
        ["demo", "--file", "/nonexistent"],
        ["status", "--hom", "x"],
    ],
)
def test_wrong_words_are_exit_2_one_line_and_one_document(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert cli.run(["--json", "--home", str(tmp_path / "home"), *words]) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert (error["code"], error["kind"]) == (2, "usage")
    assert captured.err == f"cairn: {error['message']}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["put", "/etc/hostname"],
        ["get", "cairn:abc"],
        ["link", "x"],
        ["ls"],
        ["ls", "x"],
        ["health", "x"],
        ["renew", "x", "--for", "60d"],
        ["rm", "x"],
        ["donate"],
        ["status"],
        ["peers"],
    ],
)
def test_without_a_daemon_every_command_is_exit_4_and_says_how_to_start_one(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*words, "--json", "--home", str(tmp_path)]) == 4
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert (error["code"], error["kind"]) == (4, "no_daemon")
    assert "`cairn run`" in error["message"]
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--web", "127.0.0.1"],
        ["--web", "192.0.2.1:80"],
        ["--set", "lease.days=0"],
        ["--set", "x=1"],
        ["--announce", "203.0.113.7"],
        ["--announce", "/ip4/203.0.113.7/tcp/1"] * 5,
    ],
)
def test_wrong_settings_are_exit_3(words: list[str], tmp_path: Path) -> None:
    done = cairn("--json", "run", "--no-mdns", *words, home=tmp_path / "home")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["kind"] == "config"
    assert done.stderr.count("\n") == 1


def test_a_bug_is_one_line_and_its_traceback_is_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_options: object) -> object:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setitem(COMMANDS, "status", broken)
    assert cli.run(["--json", "status", "--home", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert (error["code"], error["kind"]) == (1, "internal")
    assert "Traceback" not in captured.out + captured.err
    assert str(tmp_path / "errors.log") in error["message"]
    assert "ZeroDivisionError: deep inside" in (tmp_path / "errors.log").read_text()


def test_ctrl_c_is_exit_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "put", interrupted)
    assert cli.run(["--json", "put", "x", "--home", str(tmp_path)]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "transfer_interrupted"


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["recovery", "show"], ["--json", "recovery", "show"]], ids=" ".join
)
def test_a_full_disk_behind_stdout_is_exit_10_in_one_line(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "--home", str(tmp_path / "home"), *words]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 10
    assert done.stderr.count("\n") == 1
    assert "full" in done.stderr
    assert not (tmp_path / "home" / "errors.log").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_without_its_streams_does_what_it_does(closed: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = [sys.executable, "-m", "cli", "--home", str(home), "recovery", "show"]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} {closed}"],
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0
    assert (home / "keystore").is_file()
    assert not (home / "errors.log").exists()


def test_nobody_is_asked_through_a_stream_that_is_not_there(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cli", "--home", str(tmp_path), "get"]
    for more in ("- <&-", "cairn:x -o - >&-"):
        done = subprocess.run(
            ["sh", "-c", f"{shlex.join(words)} {more}"],
            cwd=ROOT,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


@pytest.mark.parametrize("output", ["", "missing/", "missing/../"])
def test_an_output_that_names_no_place_is_refused(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["--json", "get", "cairn:x", "-o", output, "--home", str(tmp_path / "home")]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "usage"


def test_shares_are_read_as_percent_or_number() -> None:
    assert parse_share("10%") == parse_share("0.1") == 100_000
    for text in ("-1%", "1.5", "101%", "ten", "%", "nan"):
        with pytest.raises(UsageError):
            parse_share(text)


def test_recovery_shows_the_account_and_the_words_only_when_asked(tmp_path: Path) -> None:
    home = tmp_path / "home"
    shown = json.loads(cairn("--json", "recovery", "show", home=home).stdout)
    assert set(shown) == {"account"}
    revealed = json.loads(cairn("--json", "recovery", "show", "--reveal", home=home).stdout)
    assert revealed["account"] == shown["account"]
    assert len(revealed["words"]) == 24


def test_recovery_restores_the_account_on_another_machine(tmp_path: Path) -> None:
    old = json.loads(cairn("--json", "recovery", "show", "--reveal", home=tmp_path / "old").stdout)
    words = " ".join(old["words"])
    restored = cairn("--json", "recovery", "restore", home=tmp_path / "new", text=words.upper() + "\n")
    assert json.loads(restored.stdout) == {"account": old["account"]}
    again = json.loads(cairn("--json", "recovery", "show", home=tmp_path / "new").stdout)
    assert again == {"account": old["account"]}


def test_a_passphrase_is_set_changed_and_removed(tmp_path: Path) -> None:
    home, one, two = tmp_path / "home", tmp_path / "one", tmp_path / "two"
    one.write_text("open sesame\n")
    two.write_text("say friend\r\n")
    change = ["--json", "recovery", "passphrase"]
    account = json.loads(cairn("--json", "recovery", "show", home=home).stdout)["account"]

    def show(*words: str) -> subprocess.CompletedProcess[str]:
        return cairn("--json", "recovery", "show", *words, home=home)

    def is_refused(done: subprocess.CompletedProcess[str], says: str) -> bool:
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["kind"]) == (12, "wrong_passphrase")
        return says in error["message"]

    done = cairn(*change, "--new-passphrase-file", str(one), home=home)
    assert json.loads(done.stdout) == {"account": account, "sealed": True}
    assert is_refused(show(), "--passphrase-file")
    assert is_refused(show("--passphrase-file", str(two)), "does not open")
    assert json.loads(show("--passphrase-file", str(one)).stdout) == {"account": account}

    assert is_refused(cairn(*change, "--new-passphrase-file", str(two), home=home), "sealed")
    done = cairn(*change, "--passphrase-file", str(one), "--new-passphrase-file", str(two), home=home)
    assert done.returncode == 0
    assert is_refused(show("--passphrase-file", str(one)), "does not open")

    done = cairn(*change, "--passphrase-file", str(two), "--remove", home=home)
    assert json.loads(done.stdout) == {"account": account, "sealed": False}
    assert json.loads(show().stdout) == {"account": account}
    assert is_refused(show("--passphrase-file", str(two)), "has no passphrase")


def test_the_passphrase_file_may_be_named_in_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new home is sealed at once; restoring leaves it sealed."""
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    words = ["--json", "--home", str(tmp_path / "home"), "recovery"]
    monkeypatch.setenv("CAIRN_PASSPHRASE_FILE", str(secret))
    assert cli.run([*words, "show", "--reveal"]) == 0
    shown = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", io.StringIO(" ".join(shown["words"])))
    assert cli.run([*words, "restore"]) == 0
    assert json.loads(capsys.readouterr().out) == {"account": shown["account"]}
    monkeypatch.delenv("CAIRN_PASSPHRASE_FILE")
    assert cli.run([*words, "show"]) == 12


def test_a_sealed_node_starts_with_its_passphrase_only(tmp_path: Path) -> None:
    home, secret, wrong = tmp_path / "home", tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("open sesame\n")
    wrong.write_text("open barley\n")
    run = ["--json", "run", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]
    cairn("recovery", "passphrase", "--new-passphrase-file", str(secret), home=home)
    for words in ([], ["--passphrase-file", str(wrong)]):
        done = cairn(*run, *words, home=home)
        assert done.returncode == 12
        assert json.loads(done.stdout)["error"]["kind"] == "wrong_passphrase"
    command = [sys.executable, "-m", "cli", "--home", str(home), *run, "--passphrase-file", str(secret)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as node:
        try:
            assert node.stdout is not None
            assert json.loads(node.stdout.readline())["event"] == "ready"
            done = cairn("recovery", "passphrase", "--passphrase-file", str(secret), "--remove", home=home)
            assert done.returncode == 11
        finally:
            node.terminate()
    assert node.returncode == 0


def test_a_terminal_is_asked_for_the_passphrase_and_does_not_show_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cli", "--json", "--home", str(tmp_path / "home"), "recovery"]

    def answer(command: list[str], *lines: str) -> tuple[int, str]:
        """The exit code, and what the terminal and stderr showed."""
        master, slave = pty.openpty()
        with subprocess.Popen(
            command, cwd=ROOT, stdin=slave, stdout=subprocess.DEVNULL, stderr=slave, start_new_session=True
        ) as process:
            os.close(slave)
            shown = ""
            for line in lines:
                while not shown.endswith(": "):  # what comes before the question is thrown away
                    shown += os.read(master, 4096).decode()
                os.write(master, line.encode() + b"\n")
                shown += "|"
            with contextlib.suppress(OSError):  # a terminal whose last user is gone
                while data := os.read(master, 4096):
                    shown += data.decode()
        os.close(master)
        return process.returncode, shown

    assert answer([*words, "passphrase"], "open sesame", "open sesame")[0] == 0
    code, shown = answer([*words, "show"], "open sesame")
    assert (code, "Passphrase" in shown, "sesame" in shown) == (0, True, False)
    assert answer([*words, "show"], "open barley")[0] == 12
    assert answer([*words, "passphrase"], "open sesame", "one", "two")[0] == 2
    assert answer([*words, "show"], "open sesame")[0] == 0


def test_a_wrong_word_is_exit_12_and_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = json.loads(cairn("--json", "recovery", "show", home=home).stdout)
    done = cairn("--json", "recovery", "restore", home=home, text="abandon " * 23 + "cairn\n")
    assert done.returncode == 12
    assert "cairn" in json.loads(done.stdout)["error"]["message"]
    assert json.loads(cairn("--json", "recovery", "show", home=home).stdout) == before


def test_credit_takes_a_friend_s_line_and_the_common_options_anywhere() -> None:
    plain = parse(["credit"])
    assert (plain.command, plain.peer, plain.amount) == ("credit", None, None)
    line = parse(["--json", "credit", "--home", "/h", "line", "z6Mk", "20GB", "-v"])
    assert (line.command, line.peer, line.amount) == ("credit", "z6Mk", "20GB")
    assert (line.json, line.home, line.verbose) == (True, "/h", 1)
    for words in (["credit", "lines"], ["credit", "line", "z6Mk"], ["credit", "line"]):
        with pytest.raises(UsageError):
            parse(words)
