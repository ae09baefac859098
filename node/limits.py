"""Every bound on a quantity that a peer controls, with its unit and its reason. Layer 0.

Nothing received is allocated, stored, waited for or repeated beyond one of these.
"""

from __future__ import annotations

from typing import Final

# --- wire ---------------------------------------------------------------------------------------------

WIRE_DEPTH_MAX: Final = 8  # arrays within arrays: the deepest record needs 4
WIRE_ARRAY_ITEMS_MAX: Final = 4_096  # items: the longest list on the wire, a page of a roster, has 2,048
FRAME_BYTES_MAX: Final = (
    65_507 - 4
)  # bytes: one frame with its header is one Noise message (network.md, trap 2)
STREAM_READ_BYTES: Final = 65_536  # bytes: what py-libp2p reads best at once (network.md, trap 2)

# --- geometry (design.md, section 2) ------------------------------------------------------------------

BLOCK_BYTES: Final = 65_472  # bytes: 1023 x 64, no power of two, fits a frame
BLOCK_ALIGN_BYTES: Final = 64  # bytes: the smallest block, and the stride unit of the coding engines
SEGMENT_STRIPES: Final = 64  # stripes a segment: 42 MB of plaintext, 4.2 MB a shard at 10/30
TOTAL_SHARDS_MAX: Final = 255  # GF(2^8) has no more rows
SEGMENTS_MAX: Final = 120_000  # segments a file: 5 TB at 10/30
SEGMENT_MANIFEST_BYTES_MAX: Final = 16 * 1024  # bytes: 255 roots, 64 stripe hashes and the rest are 11 KiB
FILE_MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024  # bytes: 120,000 segment ids and a 64 KiB folder index
FOLDER_INDEX_BYTES_MAX: Final = 64 * 1024  # bytes: a larger folder index is a sealed file of its own

# --- dht (design.md, section 5) -----------------------------------------------------------------------

DHT_ANNOUNCE_INTERVAL_S: Final = 79_200  # seconds: two sweeps fit into the life of a provider record
