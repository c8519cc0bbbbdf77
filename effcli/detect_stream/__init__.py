"""Streaming stereo 3D detection: boxes for the moment in which they are received."""
