"""The networks that denoise: which classes of diffusers are understood, how they are called and with what."""
