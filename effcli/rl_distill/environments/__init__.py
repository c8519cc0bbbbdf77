"""Environments behind one interface: what is observed, which actions there are, and copies that step together."""
