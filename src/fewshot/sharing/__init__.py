"""Sharing: what leaves the project for other programs (exports of trained learners, lists of frozen episodes)."""
