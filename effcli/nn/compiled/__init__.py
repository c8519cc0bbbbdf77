"""Loops that numba compiles for CPUs, and what they share. Imported only when one is called."""
