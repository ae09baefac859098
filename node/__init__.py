"""A Cairn node: peer-to-peer storage that nobody can switch off."""
