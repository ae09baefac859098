"""The real node in a simulated world: virtual clock, network and disk, every fault injected, one seed."""
