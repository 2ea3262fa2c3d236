"""Warm start: one process imports everything that jobs need, and forks itself for each job of a run.

`start` starts that process, `server` is what it does, and `client` lets a job's command find it. A job that runs in a
fork computes the same bytes as in an interpreter of its own: the process refuses every command for which anything that
libraries read while they are imported differs, and the command then goes on by itself.
"""
