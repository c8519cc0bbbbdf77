"""Which picture file becomes which, and how pictures are written."""
