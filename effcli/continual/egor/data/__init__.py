"""Images with boxes that EGOR learns from, and their classes in groups."""
