"""From annotation lists and images to batches, on the host."""
