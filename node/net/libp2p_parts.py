"""What is used of py-libp2p: the Noise handshake, Ed25519 keys, peer ids, the identify message. Layer 3.

The only module that imports libp2p. The library's packages import all of it from their `__init__`: QUIC, TLS
certificates by ACME, a DNS resolver, two HTTP clients. None of that is used here, and it was half of a node's
start and 35 MiB of its memory. So those packages are empty while the parts are imported, and left unimported
afterwards: whoever imports libp2p in the same process gets the whole library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_PACKAGES = (
    "libp2p", "libp2p.identity", "libp2p.identity.identify", "libp2p.security", "libp2p.transport",
    "libp2p.transport.quic",
)  # fmt: skip


@contextmanager
def _empty(packages: tuple[str, ...]) -> Iterator[None]:
    """Let submodules of these packages be imported without the packages' own code."""
    spec = find_spec(packages[0])
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("py-libp2p isn't installed", name=packages[0])
    root = Path(spec.submodule_search_locations[0])
    missing = [name for name in packages if name not in sys.modules]
    for name in missing:
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


with _empty(_PACKAGES):
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.keys import KeyType
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.identity.identify.pb.identify_pb2 import Identify
    from libp2p.peer.id import ID
    from libp2p.security.noise.transport import Transport as NoiseTransport

# The library logs what peers do wrong as errors; here that is everyday.
logging.getLogger("libp2p").setLevel(logging.CRITICAL)

__all__ = ["ID", "Identify", "KeyType", "NoiseTransport", "create_new_key_pair", "create_noise_key_pair"]
