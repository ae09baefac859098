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

# --- transfers (protocol /cairn/shards/1) ---------------------------------------------------------------

CONTROL_REQUEST_BYTES_MAX: Final = 256 * 1024  # bytes: a command's fields; paths and links are the longest
FILE_URLS_MAX: Final = 64  # files that have a loopback URL at once: each keeps its manifest, 4 MiB at worst
OPEN_FILES_MAX: Final = (
    16  # files open for `cairn mount` at once: a manifest and a folder's index, 35 MB at worst
)
RECORD_BYTES_MAX: Final = 1_280  # bytes: a lease under a grant and a handover is 1,100, others 450
LEASES_BODY_BYTES_MAX: Final = 1024 * 1024  # bytes: a roster of 5 x 255 leases is 950 KB at most
PLACEMENT_BYTES_MAX: Final = 256 * 1024  # bytes: holders of all segments of an ordinary file
ANNOUNCE_KEYS_MAX: Final = 64  # keys a request: each costs the announcer a lookup
RELEASES_PER_MESSAGE_MAX: Final = 48  # records: 60 KiB at most, one frame
BODY_PART_BYTES: Final = 61_440  # bytes: a frame of a body, safely under one Noise message
PUT_SILENCE_S: Final = (
    120  # seconds: a reservation lapses so long after its last block (design.md, section 4)
)
PUTS_OPEN_MAX: Final = 256  # unfinished puts a donor keeps, resting ones included; each pins its reservation
PUTS_OPEN_PER_PEER_MAX: Final = 16  # of one peer: 2 segments in flight, replacements and some resting ones
PUT_BATCH_BLOCKS: Final = 16  # blocks (1 MiB): one append to the store, held in memory a stream at worst
SHARD_STREAMS_MAX: Final = 512  # streams served at once: each may hold 4 MiB of blocks at worst
LARGE_BODIES_PER_PEER_MAX: Final = 2  # file manifests on their way to a peer: 8 MiB, however slow it is
SHARD_STREAMS_PER_PEER_MAX: Final = (
    24  # one peer's share: a put or a get uses one a segment in flight, and retries
)
REQUEST_IDLE_S: Final = 120.0  # seconds a stream may rest between requests
REPLY_DEADLINE_S: Final = 20.0  # seconds for the reply to a small request
CLOSE_DEADLINE_S: Final = 45.0  # seconds for a holder to make a segment's shards durable and countersign
ANNOUNCE_DEADLINE_S: Final = 60.0  # seconds for the DHT stores behind an announcement
ROSTER_SIGNED_PER_SHARD_MAX: Final = 2  # leases kept a shard that the owner signed: one, and its renewal
ROSTER_GRANTED_PER_SHARD_MAX: Final = 2  # leases kept a shard under a grant: a flood of these evicts no other
ROSTER_FURTHER_PER_SHARD_MAX: Final = 1  # leases kept a shard that another pays for: any key can sign them
ROSTER_LEASES_PER_SHARD_MAX: Final = (
    ROSTER_SIGNED_PER_SHARD_MAX + ROSTER_GRANTED_PER_SHARD_MAX + ROSTER_FURTHER_PER_SHARD_MAX
)
PLACEMENT_HOLDERS_MAX: Final = 2_048  # holders a placement names
PLACEMENT_ADDRESSES_MAX: Final = 4  # addresses a holder

# --- manifests, headers and folders ---------------------------------------------------------------------

SEGMENT_BUNDLE_BYTES_MAX: Final = 256 * 1024  # bytes: all segment manifests of a file of up to 3 GB at 10/30
SEGMENT_BUNDLE_COUNT_MAX: Final = 1_024  # manifests: the smallest is over 256 bytes
NAME_BYTES_MAX: Final = 255  # bytes of UTF-8: what ext4, APFS and most others take for one name
ENTRY_PATH_BYTES_MAX: Final = (
    2_048  # bytes of UTF-8: leaves half of Linux' PATH_MAX to the folder it lands in
)
ENTRY_LEVELS_MAX: Final = 64  # names in a path: deeper trees are attacks on whoever walks them
MEDIA_TYPE_BYTES_MAX: Final = 127  # bytes: RFC 6838 allows 127 a half, none in use has more in both
FOLDER_ENTRIES_MAX: Final = 100_000  # files a folder: their index in memory is about 30 MB
FOLDER_INDEX_FILE_BYTES_MAX: Final = 16 * 1024 * 1024  # bytes: 100,000 entries with paths of 150 bytes
SEALED_HEADER_BYTES_MAX: Final = FOLDER_INDEX_BYTES_MAX + 2_048  # bytes: the index, a name, a type, the seal
NETWORK_ID_BYTES_MAX: Final = 64  # bytes: a short name, shown to people

# --- dht (design.md, section 5) -----------------------------------------------------------------------

DHT_ANNOUNCE_INTERVAL_S: Final = 79_200  # seconds: two sweeps fit into the life of a provider record
DHT_BUCKET_CONTACTS: Final = 20  # contacts: a bucket, a reply, the holders of a record (specification's k)
DHT_LOOKUP_PARALLEL: Final = 10  # requests of one lookup in flight: slow ones don't hold it up
DHT_LOOKUP_PATHS: Final = 3  # disjoint paths: whoever owns one does not own the result
DHT_LOOKUP_WIDTH_MAX: Final = 64  # contacts: what a crowded radius may cost a lookup
DHT_LOOKUP_QUERIES_MAX: Final = 256  # contacts asked in one lookup: four times the width, liars included
DHT_LOOKUP_SLOW_S: Final = 1.0  # seconds: after that a lookup goes on without the answer
DHT_REPLY_CONTACTS_MAX: Final = 20  # contacts read of one reply: what the specification sends
DHT_REPLY_PROVIDERS_MAX: Final = 64  # providers read of one reply: what a node keeps of a key
DHT_CONTACT_ADDRESSES_MAX: Final = 8  # addresses kept of a peer: two families, a relay or two
DHT_ADDRESS_BYTES_MAX: Final = 256  # bytes of a binary multiaddr: a relayed address with two ids has 110
DHT_ADDRESS_CACHE_ITEMS: Final = 8_192  # addresses whose two forms are remembered: 4 MB
DHT_CONTACT_FAILURES_PASSED_ON: Final = 2  # requests: a contact that failed as many is not told to others
DHT_CONTACT_FAILURES_MAX: Final = 12  # requests: about a night of tries, then a contact is forgotten
DHT_SUBNET_BUCKET_MAX: Final = 2  # contacts of one /24 (IPv6: /48) in a bucket
DHT_SUBNET_TABLE_MAX: Final = 6  # contacts of one /24 (IPv6: /48) in the table
DHT_KEY_BYTES_MAX: Final = 128  # bytes of a record's key: a multihash has 34, a hint's key 60
DHT_PEER_ID_BYTES_MAX: Final = 42  # bytes of a binary peer id: the longest key that is its own hash
DHT_VALUE_BYTES_MAX: Final = 8_192  # bytes of a value record: a placement hint fills it
DHT_MESSAGE_BYTES_MAX: Final = 65_536  # bytes: 20 contacts, 64 providers and a value, all with 8 addresses
DHT_REPLY_PROVIDERS_BYTES_MAX: Final = 8_192  # bytes: half of what rust-libp2p reads of a message
DHT_PROVIDER_EXPIRY_S: Final = 48 * 3_600  # seconds: outlives one missed sweep
DHT_VALUE_EXPIRY_S: Final = 48 * 3_600  # seconds: whoever cares stores it again, like a provider record
DHT_RESTORE_S: Final = 12 * 3_600  # seconds: half of 20 holders must not leave for good in that time
DHT_RESTORE_SPREAD_S: Final = (
    6 * 3_600
)  # seconds over which the holders of a value spread: one does it for all
DHT_RESTORE_STEP_RECORDS: Final = 16  # values stored again in one step: each is a lookup and 20 stores
DHT_RESTORE_RETRY_S: Final = 600  # seconds until a value that nobody took is offered again
DHT_PROVIDERS_PER_KEY_MAX: Final = 64  # provider records of a key: five holders announce a segment
DHT_PROVIDER_RECORDS_PER_PEER_MAX: Final = (
    50_000  # records: in a small network each node keeps all keys of all
)
DHT_PROVIDER_RECORDS_MAX: Final = 500_000  # records: 100 MB of the disk at 200 bytes
DHT_VALUE_RECORDS_PER_PEER_MAX: Final = 1_000  # records: as many files put through one peer in two days
DHT_VALUE_RECORDS_MAX: Final = 10_000  # records: 80 MB of the disk
DHT_RECORDS_BYTES_MAX: Final = 320 * 1024 * 1024  # bytes of disk: both tables full; less under a small cap
DHT_CHANGES_PER_COMMIT_MAX: Final = 64  # changes: where LMDB's commits stop getting cheaper
DHT_REQUEST_S: Final = 5.0  # seconds: a dial and a reply over the slowest link worth asking
DHT_REQUESTS_IN_FLIGHT_MAX: Final = 64  # requests of all lookups together: as many dials at once
DHT_ANNOUNCE_BATCH_KEYS: Final = 32  # keys: announcements in flight on one stream, 16 KB
DHT_STREAMS_MAX: Final = 1_024  # incoming streams: idle ones end within DHT_IDLE_S
DHT_STREAMS_PER_PEER_MAX: Final = 32  # incoming streams of a peer: its lookups in a network of a dozen nodes
DHT_IDLE_S: Final = 10.0  # seconds without a whole request, then a stream is reset
DHT_SWEEP_STEP_S: Final = 300.0  # seconds between steps of the sweep
DHT_SWEEP_PAGE_KEYS: Final = 1_024  # keys of a region announced at once: 1 MB with their lists
DHT_REGION_LOOKUPS_MAX: Final = 8  # lookups to know a region: two are usual
DHT_PREIMAGE_TRIES_MAX: Final = 65_536  # hashes to hit a subtree of up to 12 bits: 50 ms, 3 on average
DHT_PREIMAGE_BITS: Final = 12  # bits of a subtree that trying hits with all but certainty
DHT_VERIFY_QUEUE_MAX: Final = 256  # peers heard of that wait to be tried: a full table's worth
DHT_VERIFY_PARALLEL: Final = 8  # peers tried at once: a flood of names makes no flood of dials
DHT_LEFT_ALONE_S: Final = 300.0  # seconds until a peer that did not answer is tried again unasked
ABSENT_PEERS_MAX: Final = 4_096  # peers remembered as not found when they were looked up
DHT_LEFT_ALONE_PEERS_MAX: Final = 4_096  # peers remembered as not answering
DHT_MOVED_PEERS_MAX: Final = 4_096  # peers remembered as asked where they listen, by the place they came from
DHT_MAINTENANCE_S: Final = 60.0  # seconds between looks at what is due
DHT_NEIGHBOURHOOD_FIRST_S: Final = 15.0  # seconds to the second lookup of the own key, doubling from there
DHT_NEIGHBOURHOOD_S: Final = 3_600.0  # seconds between lookups of the own key in the long run
DHT_BUCKET_REFRESH_S: Final = 14_400.0  # seconds without a lookup, then a bucket is refreshed
DHT_UNSEEN_S: Final = 7_200.0  # seconds of silence, then a contact is asked for a sign of life
DHT_VALUE_QUORUM: Final = 4  # holders of the same best value: enough to end a lookup
DHT_SAMPLE_BARREN_MAX: Final = 3  # random lookups in a row that show nobody new, then all are known
DHT_SIZE_SAMPLES: Final = 16  # lookups whose view of the network's size is remembered
DHT_EXPIRE_STEP_RECORDS: Final = 1_000  # records dropped in one commit: 30 ms
DHT_SNAPSHOT_S: Final = 900.0  # seconds between saves of the routing table
DHT_CORRECTIONS_MAX: Final = 16  # holders of outdated values corrected at once
DHT_HOLDERS_MAX: Final = 128  # nodes that get a record: 64 within the radius and as many behind a crowd
DHT_EXPIRE_PAUSE_S: Final = 600.0  # seconds between looks for expired records, which nobody is told
DHT_CONTACT_CACHE_ITEMS: Final = 2_048  # contacts whose decoded form is remembered: 8 MB at the longest

# --- framing (node/framing.py) ------------------------------------------------------------------------

STREAM_WRITE_BYTES_MAX: Final = (
    65_507  # bytes a write: with 12 of Yamux header the most one Noise message takes
)
BLOCK_HEADER_BYTES_MAX: Final = 30  # bytes: what a full block leaves of a write, after two lengths (4 + 1)
PREAMBLE_BYTES_MAX: Final = 1_024  # bytes: network id, version and 16 short parameters
PREAMBLE_PARAMETERS_MAX: Final = 16  # parameters of a network: the specification names 4
PREAMBLE_DEADLINE_S: Final = 15  # seconds: it leaves with the opener's first message
SEND_DEADLINE_S: Final = 120.0  # seconds for a frame to leave: 30 streams share a link of 16 kB/s
PREAMBLE_NAME_BYTES_MAX: Final = 64  # bytes: the name of a parameter, as in config.toml
ERROR_CODE_BYTES_MAX: Final = 32  # bytes: one word
ERROR_TEXT_CHARACTERS_MAX: Final = 256  # characters: one line for a person

RATE_BYTES_S_MIN: Final = 1024  # bytes a second: below it no protocol keeps its deadlines

# --- connections and streams (node/net) ---------------------------------------------------------------

CONNECTION_SILENCE_S: Final = 45  # seconds: three pings unanswered; a stopped process is noticed (trap 6)
DIAL_TIMEOUT_S: Final = 10  # seconds a dial with its handshake: a few round trips of the worst link
DIAL_ADDRESSES_MAX: Final = 8  # addresses tried of one peer: LAN, IPv4 and IPv6 of a home are 4

# --- get, health, renew ---------------------------------------------------------------------------------

SCORES_MAX: Final = 10_000  # peers remembered with their speed and failures: 2 MB in memory
RESUME_POINT_BYTES_MAX: Final = 256  # bytes: the small file beside a partial output
LOCATE_TIMEOUT_S: Final = 30.0  # seconds to find a file manifest: a lookup with many dead nodes takes ten
PEER_LOOKUPS_AT_ONCE: Final = 4  # DHT lookups for stale addresses: each asks about 20 peers
SEARCH_TIMEOUT_S: Final = 15.0  # seconds to look for more holders of a segment in the DHT
LOCATE_CANDIDATES_MAX: Final = 64  # peers said to hold a file manifest that are asked for it

# --- coding ---------------------------------------------------------------------------------------------

CODING_TABLES_BYTES_MAX: Final = 8 * 1024 * 1024  # bytes: 1,300 sets of lost shards at 10/30
CODING_CODES_MAX: Final = 32  # codes whose matrix is kept: 65 KB at most each
DIAL_STAGGER_S: Final = 0.25  # seconds until the next address is tried beside a slow one (RFC 8305)
PROTOCOLS_REMEMBERED_MAX: Final = 32  # protocols that a peer is known to speak
DIALS_REMEMBERED_MAX: Final = 1_024  # addresses whose failure is remembered
DIAL_BACKOFF_S_MAX: Final = 30  # seconds between dials of an address that keeps failing
HANDSHAKE_TIMEOUT_S: Final = 10  # seconds from a caller's TCP connection to its first stream
HANDSHAKES_MAX: Final = 64  # callers in the handshake at once: 64 KB each, and a millisecond of processor
CONNECTIONS_MAX: Final = 512  # connections: a table of 20 contacts a bucket, transfers, and as many callers
CONNECTIONS_MAX_PER_SUBNET: Final = 32  # of one /24 (IPv6 /48); local networks are exempt
CONNECTIONS_MAX_PER_PEER: Final = 4  # both dial at once, and one comes back under a new address
CONNECTION_IDLE_S: Final = 60  # seconds without a stream until a connection may make room for another one
PING_INTERVAL_S: Final = 15  # seconds
PROTOCOL_LINE_BYTES_MAX: Final = 256  # bytes of a protocol's name
PROTOCOL_PROPOSALS_MAX: Final = 8  # protocols that one stream may propose
NEGOTIATION_TIMEOUT_S: Final = 10  # seconds from a stream's start to its protocol
STREAMS_MAX_PER_CONNECTION: Final = 256  # streams that a peer may hold open: 5 KB and a task each
STREAMS_SUBNET_PART: Final = 4  # a quarter of a protocol's streams for one /24 (IPv6 /48), local ones exempt
STREAM_FIRST_WINDOW_BYTES: Final = 256 * 1024  # bytes a stream begins with, by the specification of Yamux
STREAM_PACED_WINDOW_BYTES: Final = 512  # bytes, the same under a rate: a request; many at once are within 5 %
STREAM_WINDOW_BYTES_MAX: Final = 1024 * 1024  # bytes: 20 MB/s a stream at 50 ms
UNREAD_BYTES_MAX_PER_CONNECTION: Final = 8 * 1024 * 1024  # bytes: 32 streams with a full first window
UNREAD_BYTES_MAX: Final = 32 * 1024 * 1024  # bytes over all connections, however many attack
CLOSED_STREAM_LINGER_S: Final = 30  # seconds that a peer may take to close what was closed here
SOCKET_READ_BYTES: Final = 256 * 1024  # bytes a system call: four Noise messages
SEND_QUEUE_BYTES: Final = 256 * 1024  # bytes: senders wait from here on
SEND_QUEUE_FRAMES: Final = 1_024  # frames: the same for small ones
SEND_QUEUE_FRAMES_MAX: Final = 8_192  # frames: only answers that the peer provokes and does not read get here
PEER_TEXT_BYTES_MAX: Final = 8_192  # bytes of an identify message
IDENTIFY_STREAMS_MAX: Final = 64  # streams of identify and of ping at once
OBSERVATIONS_MAX: Final = 64  # addresses that others saw this node at
REMEMBERED_PEERS_MAX: Final = 256  # peers written down: any few of them suffice to join again
BOOTSTRAP_CANDIDATES_MAX: Final = 1_024  # peers that the join may dial: lists, links, LAN and memory

# --- crypto: links, passwords, keystore ---------------------------------------------------------------

ADDRESS_BYTES_MAX: Final = 256  # bytes a multiaddr as text: /dns6 with a long name, a port and /p2p are 180
LINK_CHARS_MAX: Final = 4_096  # characters of a link: hash, 8 addresses percent-encoded, a wrapped key
LINK_ADDRESSES_MAX: Final = 8  # `via` addresses in a link: a reader needs one that answers
PASSWORD_BYTES_MAX: Final = 1_024  # bytes of UTF-8: a long sentence
ARGON2_MEMORY_KIB_MAX: Final = 256 * 1024  # KiB: a link must not make its reader allocate more than 256 MiB
ARGON2_MEMORY_KIB_MIN: Final = 8  # KiB: libsodium's least
ARGON2_PASSES_MAX: Final = 4  # passes over that memory: about a second and a half at the largest size
KEYSTORE_BYTES_MAX: Final = 4 * 1024  # bytes: two seeds, salt, nonce and check are under 300
PHRASE_CHARS_MAX: Final = 512  # characters: 24 words of at most 8 letters

# --- records ------------------------------------------------------------------------------------------

HANDOVER_BYTES_MAX: Final = 320  # bytes: 290 at most
OWNER_HALF_BYTES_MAX: Final = 768  # bytes: a grant and a handover are 680 at most
LEASE_BYTES_MAX: Final = 1_152  # bytes: 440 with two signatures, 1,110 with a grant and a handover for one
RELEASE_BYTES_MAX: Final = 256  # bytes: 170 in practice
OFFER_BYTES_MAX: Final = 384  # bytes: 270 at most
DEVICE_CERT_BYTES_MAX: Final = 256  # bytes: 220 at most
RECORDS_REMEMBERED_MAX: Final = 4_096  # decoded records of a process, of any types: 12 MB
RECORDS_REMEMBERED_BYTES_MAX: Final = 1_280  # bytes: larger ones are decoded each time
SIGNATURES_REMEMBERED_MAX: Final = 4_096  # signatures that held, in a process: 4 MB
SIGNED_REMEMBERED_BYTES_MAX: Final = 1_024  # bytes: what is longer is verified each time
RECORD_DAY_MAX: Final = 100_000  # days since 1970: the year 2243
LEASE_DAYS_MAX: Final = 400  # days a lease lasts: a year and its grace
RECORD_TIME_S_MAX: Final = RECORD_DAY_MAX * 86_400  # seconds since 1970
BYTE_COUNT_MAX: Final = 2**53  # bytes: more than any disk; exact also where numbers are doubles
RATE_MICRO_MAX: Final = 10**12  # micro-credits: a million credits a MiB and day
HINT_BYTES_MAX: Final = 8 * 1024  # bytes: what the DHT takes as a value record (design.md, section 5)
HINT_HOLDERS_MAX: Final = 255  # holders of a segment: one for each shard at most
HINT_ADDRESSES_MAX: Final = 4  # addresses a holder: a wrong one costs the reader a dial
HINT_PAGE_SEGMENTS: Final = 1_024  # segments a page of a hint covers
HINT_PAGES_MAX: Final = -(-SEGMENTS_MAX // HINT_PAGE_SEGMENTS)  # pages a file: 118
HINT_LIFE_S_MAX: Final = LEASE_DAYS_MAX * 86_400  # seconds a hint may stay valid: no longer than a lease
LOST_RECORD_BYTES_MAX: Final = 4 * 1024  # bytes: an answer of one sample and a lease under a grant are 1.7 KB
LIST_POINTER_BYTES_MAX: Final = 8 * 1024  # bytes: what the DHT takes as a value record
LIST_POINTER_LIFE_S_MAX: Final = LEASE_DAYS_MAX * 86_400  # seconds a pointer may stay valid: as a hint
LIST_ROOT_BYTES_MAX: Final = 7 * 1024  # bytes: a pointer less its seal, its signature and its other fields
LIST_PARTS_MAX: Final = 64  # parts a root names: 5 KiB of hashes and keys
LIST_PART_CLASS_MAX: Final = 6  # powers of 4: parts from 16,384 rows on stay, so a merge holds 65,536 (25 MB)
LIST_REMOVAL_KEPT_S: Final = (
    LEASE_DAYS_MAX * 86_400
)  # seconds that a removal outlives the removed file's leases
LIST_ROW_BYTES_MAX: Final = 16 * 1024  # bytes: the longest link, a name and a dozen numbers are 5 KB

# --- credit and audits (credit.md) ----------------------------------------------------------------------

CHARGE_BYTES_MAX: Final = 256  # bytes: 170 in practice
REPAIR_GRANT_BYTES_MAX: Final = 512  # bytes with both signatures: 370 at most
REPAIR_CASE_BYTES_MAX: Final = 2 * 1024 * 1024  # bytes: a full roster is 800 KB, receipts of one donor 68 KB
REPAIR_RECEIPTS_MAX: Final = 510  # receipts of a case: two for each shard of a segment
REPAIR_BAD_ANSWERS_MAX: Final = 16  # signed bad answers of a case: 68 KB each at worst
REPAIR_STREAMS_MAX: Final = 128  # streams served at once: each may hold a case and 1 MiB of blocks
REPAIR_STREAMS_PER_PEER_MAX: Final = 8  # of one peer: it repairs one segment at a time
REPAIR_REPLACEMENTS_AT_ONCE: Final = 8  # cases in memory with their blocks: 3 MiB each
REPAIR_WITNESSING_AT_ONCE: Final = 4  # requests to bear witness: each dials up to 255 holders
REPAIR_WITNESS_DEADLINE_S: Final = 120.0  # seconds: dials of dead holders time out, and are looked up
REPAIR_INTENTS_MAX: Final = 4_096  # intents remembered: 300 bytes each
REPAIR_BYTES_PER_DAY: Final = 16 * 1024**3  # bytes fetched and sent: a sixth of what 10 Mbit/s move in a day
REPAIR_WINDOW_STRIPES: Final = 4  # stripes of a segment in memory while it is rebuilt: 3 MiB at 10/30
REPAIR_INTENT_BYTES_MAX: Final = 512  # bytes: 255 indexes and a signature are 480
AUDIT_RECEIPT_BYTES_MAX: Final = 34 * 1024  # bytes: 2,000 lease ids of 16 bytes and 400 of the rest
AUDIT_ANSWER_BYTES_MAX: Final = 66 * 1024  # bytes: 2,000 digests of 32 bytes and 300 of the rest
SERVE_RECEIPT_BYTES_MAX: Final = 320  # bytes: 290 at most
PAIR_STATE_BYTES_MAX: Final = 384  # bytes with both signatures: 350 at most
CLEAR_BYTES_MAX: Final = 768  # bytes: four accounts, states and signatures are 680
ABORT_BYTES_MAX: Final = 256  # bytes: 220 at most
EQUIVOCATION_BYTES_MAX: Final = 1_024  # bytes: two pair states and an account
AUDIT_SAMPLES_MAX: Final = 2_000  # samples a donor and day, so leases a receipt: 2.9 MB of answer
CLEAR_MEMBERS_MAX: Final = 4  # accounts in a cycle: longer ones fail more often than they help
SERVE_RECEIPTS_PER_SHARD_MAX: Final = 4  # of one stream: two, and two to spare
SERVED_SHARDS_PER_STREAM_MAX: Final = TOTAL_SHARDS_MAX  # shards whose bytes a donor counts in one stream
EGRESS_LEASES_MAX: Final = 16_384  # leases whose egress is counted, since the start: 4 MB
CREDIT_MICRO_MAX: Final = 2**62  # micro-credits of a pair: 4 TB kept for 3,000 years; exact on the wire
CREDIT_PERIOD_MAX: Final = RECORD_DAY_MAX // 30  # periods of 30 days since 1970
PAIR_SEQUENCE_MAX: Final = 2**32  # states of a pair in one period
REPAIR_GENERATION_MAX: Final = 2**32  # replacements of one shard
BLOOM_FILTER_BYTES_MAX: Final = 16 * 1024  # bytes: 10,000 debtors at a false match in 400
CLEAR_MICROS_MIN: Final = 10_000  # micro-credits: the 600 bytes of a clear stay with its members for ever
CLEAR_CANDIDATES_MAX: Final = 16  # cycles tried for one upload: each costs its members a signature
DEVICE_CERT_LIFE_S_MAX: Final = 800 * 86_400  # seconds: two years, and a clock that is off
DEVICE_CERTS_PER_ACCOUNT_MAX: Final = 8  # certificates remembered: machines that one account has had
DEVICE_CERTS_BYTES_MAX: Final = 2_304  # bytes: as many certificates
BALANCES_SHOWN_MAX: Final = 1_000  # accounts that one answer of `cairn credit` lists
CREDIT_RANGES_MAX: Final = 32  # ranges a question: answers of 48 ids each are 52 KB, one frame
CREDIT_ROUNDS_MAX: Final = (
    2_048  # questions of one exchange: a pair that has nothing and one that has everything
)
CREDIT_ENTRIES_PER_MESSAGE_MAX: Final = 1_024  # records in one body, or ids in one question for them
CREDIT_BODY_BYTES_MAX: Final = 2 * 1024 * 1024  # bytes: a body of records
CREDIT_ENTRIES_PER_PAIR_MAX: Final = (
    100_000  # records of one pair that its other side may have kept here: 50 MB
)
PAIR_STATES_KEPT_MAX: Final = 64  # states of a pair that are remembered: what forks are found among
FOLD_BYTES_MAX: Final = 32 * 1024  # bytes: what closed periods came to, 7 bytes for each day and direction
FOLD_CLEARS_MAX: Final = 256  # clears that a fold names, 34 bytes each; what is more stays in the pair's set
FOLD_AMOUNTS_MAX: Final = (
    WIRE_ARRAY_ITEMS_MAX // 2
)  # days of a fold: five years of every day; then none closes
READER_ROWS_MAX: Final = 65_536  # accounts of which there is nothing but what they read, and receipts: 30 MB
READER_RECEIPTS_MAX: Final = 4_096  # receipts of one such account
READER_BYTES_MAX: Final = 64 * 1024 * 1024  # bytes; who read more is an account like others: 1 KB each
PROOFS_KEPT_MAX: Final = 4_096  # forks that are remembered: 4 MB; one that still freezes somebody never goes
PROOFS_SPREAD_MAX: Final = 64  # proofs of forks that are told to others: the newest
CREDIT_STREAMS_MAX: Final = 64  # exchanges served at once
CREDIT_STREAMS_PER_PEER_MAX: Final = 4  # of one peer: one, and what a lost connection left
CREDIT_REPLY_DEADLINE_S: Final = 30.0  # seconds for an answer in an exchange: a thousand signatures take one
CLEAR_SCAN_ACCOUNTS_MAX: Final = 10_000  # accounts looked through for creditors: 100 ms
CLEAR_SECONDS_ASKED_MAX: Final = 4  # creditors that a donor asks for cycles of four
CLEAR_FINDS_PER_PEER_MAX: Final = 256  # searches for cycles that one peer may cause in a day
CREDIT_HEARD_MAX: Final = 16_384  # receipts of audits that wait to be taken in: a later pass makes up for one
EXCHANGES_QUEUED_MAX: Final = 4_096  # peers that wait for their exchange
PAIR_BOOKS_MAX: Final = 64  # pairs whose records are in memory: 10,000 leases are 10 MB
CREDIT_ENTRY_BYTES_MAX: Final = (
    AUDIT_RECEIPT_BYTES_MAX + 64
)  # bytes: the largest record of a pair, and its kind
CLEARS_REMEMBERED_PER_PAIR_MAX: Final = 256  # clears of a pair whose signatures are still being collected

# --- store of a donor (design.md, section 6) ----------------------------------------------------------

STORED_LEASE_BYTES_MAX: Final = 1_280  # bytes: a lease under a grant and a handover is 1,100
PAYER_BYTES_MAX: Final = 64  # bytes: an account is 32
LEASES_PER_SHARD_MAX: Final = 64  # leases: renewals overlap by days, and a few accounts may pay for one shard
ROSTER_BYTES_MAX: Final = 912 * 1024  # bytes: 255 shards with 2 leases of the owner's, 2 granted, 1 further
SEGMENT_MANIFESTS_BYTES_MAX: Final = 256 * 1024  # bytes: the bundle that holders of segment 0 keep
STORE_RECORD_BYTES_MAX: Final = (
    FILE_MANIFEST_BYTES_MAX + 4_096
)  # bytes: the largest record is a file manifest
EXPIRY_S_MAX: Final = 2**40  # seconds since the epoch: any calendar, and it fits an index key

# --- evidence of audits ---------------------------------------------------------------------------------

BAD_ANSWER_BYTES_MAX: Final = AUDIT_ANSWER_BYTES_MAX + 4_096  # bytes: an answer, one sample and its lease
EVIDENCE_PER_LEASE_MAX: Final = 16  # receipts: the newest of each kind of a month's auditors, 2 KB
EVIDENCE_LIFE_S: Final = 60 * 86_400  # seconds: an owner may be away for a lease of 30 days and its grace
EVIDENCE_AHEAD_S: Final = 3_600  # seconds that an honest auditor's clock may be ahead
EVIDENCE_RECEIPTS_BYTES_MAX: Final = 1024 * 1024  # bytes: the receipts of a segment in one exchange
EVIDENCE_EXPIRE_STEP_ROWS: Final = 1_000  # rows dropped in one commit: 30 ms
REPUTATIONS_MAX: Final = 50_000  # donors remembered: 20 MB in memory; those that matter least go first

# --- audits (protocol /cairn/audits/1) -------------------------------------------------------------------

AUDIT_ANSWER_BODY_BYTES_MAX: Final = 3_200_000  # bytes: 2,000 samples of 1,470 bytes and their frames
AUDIT_STREAMS_MAX: Final = 64  # streams served at once: each is a few KB while it waits for its turn
AUDIT_STREAMS_PER_PEER_MAX: Final = 4  # a peer audits as a holder and for some files of its own
AUDIT_IDLE_S: Final = 30.0  # seconds that a stream of audits may rest between messages
AUDIT_ANSWERS_AT_ONCE: Final = 2  # challenges worked on: one a core; 32 blocks and their lanes in memory each
AUDIT_ANSWER_DEADLINE_S: Final = 120.0  # seconds for an answer: 2,000 samples of a slow disk, and a queue
AUDIT_TELL_SEGMENTS_MAX: Final = 64  # segments a message names: 64 rosters are read for it
AUDIT_TELL_BYTES_MAX: Final = 256 * 1024  # bytes of receipts a message brings
AUDIT_ROSTERS_MAX: Final = 64  # rosters exchanged in one audit: 1 MB; others have their turn in the next one
AUDIT_PLAN_LEASES_MAX: Final = 100_000  # leases that a node has on its list for one round: 15 MB
AUDIT_GIVEN_UP_MAX: Final = 1_024  # donors without an answer that are asked again when they come back
