"""Class-incremental learning: rehearsal, CLFD around it, E2Net, and IR without old images."""
