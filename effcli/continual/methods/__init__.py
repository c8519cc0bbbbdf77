"""One module per method of class-incremental learning, and what methods with a buffer share."""
