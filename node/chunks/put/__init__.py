"""Storing a file: reading it, placing its segments, publishing it."""
