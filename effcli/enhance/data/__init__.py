"""Low/normal-light pairs: from folders and tars, and simulated."""
