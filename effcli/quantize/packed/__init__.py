"""A packed model in memory: rows of codes, layers, the model, and what the file says of each layer."""
