"""EGOR: a detector learns new classes beside objects generated out of it (arXiv 2406.04829; IOR, ICASSP 2025)."""
