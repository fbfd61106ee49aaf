"""Checkpoints, devices, processes, signals and the work folder."""
