"""Hashing, keys, sealing, signing, links."""
