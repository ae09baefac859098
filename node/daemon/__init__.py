"""One node, composed: configuration, wiring, lifetime."""
