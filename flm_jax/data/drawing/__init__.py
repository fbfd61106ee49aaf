"""Draws pictures of faces whose landmarks are known, from parameters to pixels."""
