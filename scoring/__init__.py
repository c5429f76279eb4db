"""Scores of people's own files: the transcripts beside them, and timelines of long ones."""
