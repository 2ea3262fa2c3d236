"""Evaluation: trained learners on frozen episodes, with the error of each number; knows no learner by name."""
