"""`effcli enhance` on videos: frame by frame, to a level that does not flicker. Needs PyAV, the extra ``video``."""
