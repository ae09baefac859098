"""Adapters to this machine: disk, LMDB, calendar, entropy, threads."""
