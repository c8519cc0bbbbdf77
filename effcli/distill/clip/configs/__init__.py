"""Architectures of the small students, as open_clip reads them: data, no code."""
