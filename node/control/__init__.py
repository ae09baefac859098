"""The local API between the daemon and the command line."""
