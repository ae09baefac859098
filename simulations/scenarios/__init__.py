"""One module a scenario, each with a `SCENARIO`; nothing else lives here."""
