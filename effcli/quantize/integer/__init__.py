"""Layers as they run: 8-bit integer products, and the fused passes between them."""
