"""What makes a run resumable: its directory, checkpoints, a log that can be cut, stopping at a safe moment."""
