"""Healing: holders remake what is lost, and hand over what they give up. Layer 4."""
