"""`cairn mount`: files of the swarm as a read-only file system, a process of its own beside the daemon."""
