"""The `cairn` command: parse, one control call, render. Layer 6."""


def main() -> None:
    """Entry point of the console script."""
    raise SystemExit("cairn: no command yet")
