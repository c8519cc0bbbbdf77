"""CLIP models of the open_clip library: loading, saving, preprocessing, embedding."""
