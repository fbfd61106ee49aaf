"""Speed of each stage."""
