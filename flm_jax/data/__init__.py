"""From annotation lists and pictures to batches, on the host."""
