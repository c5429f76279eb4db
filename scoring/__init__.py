"""Scores of people's own files: which clips, their transcripts, rows of scores, and scores over time."""
