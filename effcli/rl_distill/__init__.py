"""A group of policies that teach each other while they learn: OPD-DA (IJCNN 2024, arXiv 2406.05488)."""
