"""Auditing: challenges between holders, by owners, and what follows from the answers."""
