"""`pip install .` into a fresh environment gives the whole program, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from node import __version__
from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("node", "simulations")
SOURCES = ("cli.py", "bootstrap_peers.toml", "pyproject.toml", "README.md", "LICENSE", *PACKAGES)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Cairn installed. Its dependencies are this one's, so that nothing is fetched."""
    folder = tmp_path_factory.mktemp("install")
    source, environment = folder / "source", folder / "environment"
    for name in SOURCES:  # building leaves files beside the sources
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    venv.create(environment, with_pip=False)
    site = next((environment / "lib").glob("python*/site-packages"))
    # A folder that a .pth file names is searched, and its own .pth files (this checkout's) are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--quiet"]
    offline = ["--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "install", *offline, str(source)], check=True)
    shutil.rmtree(source)
    return environment


def run(installed: Path, *words: str, cwd: Path) -> str:
    """What a program of the environment prints, away from the checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CAIRN"))}
    return subprocess.run(
        [installed / "bin" / words[0], *words[1:]],
        cwd=cwd,
        env=clean | {"HOME": str(cwd)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    ).stdout


def test_every_module_and_data_file_is_there(installed: Path, tmp_path: Path) -> None:
    site = next((installed / "lib").glob("python*/site-packages"))

    def files(root: Path) -> set[Path]:
        found = {
            path.relative_to(root)
            for package in PACKAGES
            for path in (root / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        return found | {Path("cli.py")}

    # What only whoever changes the code needs.
    assert {path for path in files(ROOT) if path.suffix not in (".pyi", ".proto")} <= files(site)
    found = run(
        installed,
        "python",
        "-c",
        "from node.net import bootstrap; print(bootstrap._shipped_file())",
        cwd=tmp_path,
    )
    assert Path(found.strip()).resolve() == installed / "share" / "cairn" / "bootstrap_peers.toml"
    tomllib.loads(Path(found.strip()).read_text())


def test_the_program_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "cairn", "--version", cwd=tmp_path) == f"cairn {__version__}\n"
    where = run(
        installed, "python", "-c", "import cli, node; print(cli.__file__, node.__file__)", cwd=tmp_path
    )
    assert all(Path(path).is_relative_to(installed) for path in where.split())
    shown = json.loads(run(installed, "cairn", "--json", "recovery", "show", cwd=tmp_path))
    assert shown["account"]
    simulated = json.loads(
        run(installed, "cairn", "--json", "simulate", "churn", "--seed", "1", "--brief", cwd=tmp_path)
    )
    assert simulated["ok"] is True


def test_a_node_of_it_starts_and_stops(installed: Path, tmp_path: Path) -> None:
    words = [
        "--json",
        "--home",
        str(tmp_path / "home"),
        "run",
        "--no-mdns",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ]
    with subprocess.Popen(
        [installed / "bin" / "cairn", *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as node:
        try:
            assert node.stdout is not None
            assert json.loads(node.stdout.readline())["event"] == "ready"
        finally:
            node.terminate()
    assert node.returncode == 0
