"""Sharing with other programs: exports of trained learners, and lists of frozen episodes."""
