"""Checkpoints, signals, processes and the work folder."""
