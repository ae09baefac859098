"""The error tree: each class is a message for a person and the exit code of the command line. Layer 0.

The text of an error is one line that says what happened and what to do. Cores raise `ProtocolError` and
know no peer; services turn it into a `RemoteError`, which blames one.
"""

from __future__ import annotations

import re
from typing import ClassVar


class NodeError(Exception):
    """Anything Cairn reports to a person; `exit_code` and `kind` are part of the command-line contract."""

    exit_code: ClassVar[int] = 1

    @property
    def kind(self) -> str:
        """Stable snake_case name for scripts, taken from the class: `StoreFullError` is `store_full`."""
        name = type(self).__name__.removesuffix("Error")
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class ProtocolError(NodeError):
    """Bytes or an event that the protocol does not allow in this state; the receiver's state is unchanged."""


class RemoteError(NodeError):
    """A peer's fault or absence: score it and go on with another one."""

    def __init__(self, peer: str, message: str) -> None:
        """`peer` is the peer id as text."""
        super().__init__(f"peer {peer}: {message}")
        self.peer = peer


class UnreachableError(RemoteError):
    """No connection to the peer could be made, or it went silent."""


class RefusedError(RemoteError):
    """The peer answered, and declined in words; declining is no misbehaviour. `code` is its reason."""

    def __init__(self, peer: str, code: str, message: str) -> None:
        super().__init__(peer, message)
        self.code = code


class PeerMisbehavedError(RemoteError):
    """The peer sent what no honest peer sends."""


class UsageError(NodeError):
    """The command's words are off."""

    exit_code = 2


class OutputExistsError(UsageError):
    """`get` never overwrites unless told to."""


class ConfigError(NodeError):
    """A setting is unknown or out of range."""

    exit_code = 3


class NoDaemonError(NodeError):
    """No node answers in this home."""

    exit_code = 4


class TransferInterruptedError(NodeError):
    """The transfer stopped in a state that the same command resumes."""

    exit_code = 5


class StoreError(NodeError):
    """The disk or the store on it failed."""


class DamagedStoreError(StoreError):
    """The tables of a store are no tables any more."""


class CorruptBlockError(StoreError):
    """A stored block no longer has its hash; it is quarantined and never served."""


class StoreFullError(StoreError):
    """The donor's cap leaves no room."""

    exit_code = 10


class StoreInUseError(StoreError):
    """Another process has this home open."""

    exit_code = 11


class CryptoError(NodeError):
    """A signature, seal or hash does not hold."""


class WrongPassphraseError(CryptoError):
    """The password, passphrase or recovery phrase is wrong."""

    exit_code = 12


class AvailabilityError(NodeError):
    """The network does not have what was asked for, now."""


class NotEnoughShardsError(AvailabilityError):
    """A manifest was found, but fewer than `data_shards` shards of a segment are reachable."""

    exit_code = 20


class NotEnoughPeersError(AvailabilityError):
    """Too few donors answer to keep the file safely."""

    exit_code = 21


class NotFoundError(AvailabilityError):
    """No peer knows the hash."""

    exit_code = 22


class CreditError(NodeError):
    """The donors ask for more credit than this account has."""

    exit_code = 30


class UnsafeNameError(NodeError):
    """A file or a name in it is refused as unsafe."""

    exit_code = 40


class FileChangedError(UsageError):
    """The source changed between two reads of one put."""


class OwnerInconsistentError(CryptoError):
    """What the file's own hash names is malformed, or contradicted by verified blocks: the owner's fault, no
    holder's."""

    exit_code = 40
