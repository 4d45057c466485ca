"""Malformed input files of every kind, and the check that each is refused as it should be."""
