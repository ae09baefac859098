"""The outside network: the only package that imports libp2p."""
