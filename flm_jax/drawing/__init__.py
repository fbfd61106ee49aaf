"""Draws faces with known landmarks."""
