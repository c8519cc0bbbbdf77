"""CLIP-KD: a small CLIP from the embeddings of a large one (Yang et al., CVPR 2024)."""
