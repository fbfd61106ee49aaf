"""From a config to the objects that it describes."""
