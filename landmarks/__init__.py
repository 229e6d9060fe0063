"""Landmark retrieval: describe photos, search, re-rank and score."""
