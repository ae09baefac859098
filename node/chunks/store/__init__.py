"""Shards on a donor's disk: packs, their index, recovery, the cap."""
