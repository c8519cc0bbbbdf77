"""Well-known methods that others are compared with."""
