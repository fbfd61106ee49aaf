"""Estimates 98 face landmarks with JAX and Flax."""
