"""Stereo sequences: layouts on disk, calibrations, labels, and synthetic drives."""
