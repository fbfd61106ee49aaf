"""The trained network for other programs."""
