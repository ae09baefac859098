"""A Cairn node: peer-to-peer storage that nobody can switch off."""

__version__ = "0.1.0"
