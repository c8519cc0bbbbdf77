"""What is written of a stream while it runs, and when it has ended."""
