"""Hypothesis for every test: never against the clock, ten times as many examples in the full run."""

from __future__ import annotations

import os

from hypothesis import settings

FULL = os.environ.get("CAIRN_TEST_FULL") == "1"

settings.register_profile("quick", deadline=None, max_examples=100)
settings.register_profile("full", deadline=None, max_examples=1000)
settings.load_profile("full" if FULL else "quick")
