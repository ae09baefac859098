"""A node in a process of its own, so that what an attack costs it can be read off the kernel.

Prints one JSON line when it listens. Then answers lines on stdin: `memory` resets the peak and prints the
resident bytes, `peak` prints the peak since then, `quit` ends it.
"""

from __future__ import annotations

import json
import os
import sys

import trio

from node.crypto.identity import peer_id_text
from node.errors import ProtocolError
from node.framing import FramedStream, Preamble
from node.net.libp2p_network import open_network
from node.ports import Stream
from node.units import Multiaddr
from tests.patience import PATIENCE_S
from tests.process_memory import memory, restart_peak
from tests.streams import echo

ECHO = "/cairn/echo/1"
DEAF = "/cairn/deaf/1"
FRAMED = "/cairn/framed/1"


async def deaf(stream: Stream) -> None:
    await trio.sleep_forever()


async def framed(stream: Stream) -> None:
    frames = await FramedStream.accepted(stream, Preamble("cairn-test", 1))
    while True:
        values = await frames.receive(deadline_s=PATIENCE_S)
        if len(values) > 3:
            raise ProtocolError("too many values")
        await frames.send(values)


async def main() -> None:
    async with open_network(b"victim".ljust(32), [Multiaddr("/ip4/127.0.0.1/tcp/0")]) as network:
        for protocol, handler in ((ECHO, echo), (DEAF, deaf), (FRAMED, framed)):
            network.serve(protocol, handler, streams_max=512, streams_max_per_peer=300)
        ready = {"peer_id": peer_id_text(network.peer_id), "address": network.listen_addresses()[0]}
        print(json.dumps(ready), flush=True)
        while True:
            command = (await trio.to_thread.run_sync(sys.stdin.readline)).strip()
            if command == "memory":
                restart_peak(os.getpid())
                print(memory(os.getpid(), "VmRSS"), flush=True)
            elif command == "peak":
                print(memory(os.getpid(), "VmHWM"), flush=True)
            else:
                return


if __name__ == "__main__":
    trio.run(main)
