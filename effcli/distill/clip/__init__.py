"""CLIP models of the open_clip library: loading and saving them, what they see of an image, and what they embed."""
