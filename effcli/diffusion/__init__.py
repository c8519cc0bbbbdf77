"""Diffusion models of the diffusers library: loading them, conditioning them, and sampling with DDIM."""
