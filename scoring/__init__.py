"""Scoring users' own files: finding clips and transcripts, writing rows of scores, and scores over time."""
