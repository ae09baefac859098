"""A swarm of real nodes, one of which serves its page and has put a few files."""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from tests.browser.chromium import Chromium, chromium
from tests.swarm.command_line import cairn_json
from tests.swarm.processes import write_random

SOUND_S = 40
SOUND_RATE = 16_000
HOSTILE_NAME = "<img src=x onerror=\"document.title='hurt'\">.html"
HOSTILE_TEXT = "<script>document.title = 'hurt'; fetch('/v1/status', {method: 'POST'})</script>"


@dataclass(frozen=True)
class Paged:
    """A node with a page, the donors that keep its files, and what each file is called by its link."""

    swarm: LocalSwarm
    node: NodeProcess
    donors: list[NodeProcess]
    links: dict[str, str]

    @property
    def url(self) -> str:
        """The page's, with its token."""
        return str(self.node.ready["web"])


@pytest.fixture(scope="session")
def paged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    """Tests that need another swarm than this make their own: this one keeps its nodes and its files."""
    folder = tmp_path_factory.mktemp("paged")
    with LocalSwarm(folder / "swarm") as swarm:
        (first,) = swarm.start(donate="300MB")
        others = [swarm.spawn(donate="300MB", bootstrap=[first]) for _ in range(3)]
        node = swarm.spawn(bootstrap=[first], page=True)
        for each in (*others, node):
            each.wait_ready()
        swarm.wait_known(node, 4)
        links = {
            path.name: cairn_json(node, "put", str(path))["link"] for path in _sources(folder / "sources")
        }
        yield Paged(swarm, node, [first, *others], links)


@pytest.fixture
async def browser() -> AsyncIterator[Chromium]:
    """A browser of its own for each test."""
    async with chromium() as program:
        yield program


def _sources(folder: Path) -> list[Path]:
    tree = folder / "photos"
    (tree / "2026").mkdir(parents=True)
    (tree / "2026" / "a b.txt").write_text("one of a folder")
    (tree / "notes.txt").write_text("another")
    hostile = folder / HOSTILE_NAME
    hostile.write_text(HOSTILE_TEXT)
    return [
        _sound(folder / "sound.wav"),
        write_random(folder / "data.bin", 200_000),
        write_random(folder / "empty.txt", 0),
        hostile,
        tree,
    ]


def _sound(path: Path) -> Path:
    """Silence of a known length, which a player has to fetch by ranges to go to its end at once."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SOUND_RATE)
        sound.writeframes(bytes(2 * SOUND_RATE * SOUND_S))
    return path
