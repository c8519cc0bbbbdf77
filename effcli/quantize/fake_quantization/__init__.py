"""Layers as they are trained: quantized in floating point, with gradients."""
