"""Synthetic drives through a town, each with its own cameras, streets and light: the preset `town`."""
