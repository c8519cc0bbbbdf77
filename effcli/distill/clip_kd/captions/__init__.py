"""Images with captions: every form in which they are read."""
