"""Losses, optimiser, state and the training step."""
