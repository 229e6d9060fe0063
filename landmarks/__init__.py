"""Landmark retrieval: describe photos, search, re-rank and score."""

__version__ = "0.1.0"
