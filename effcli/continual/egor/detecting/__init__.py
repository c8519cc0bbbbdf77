"""Detectors at work: on pictures, folders, videos and pipes."""
