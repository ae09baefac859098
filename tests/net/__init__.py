"""The network adapter, its bounds, and peers that attack them."""
