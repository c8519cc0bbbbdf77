"""How StreamDSGN is trained: clips, augmentation, losses, and the loop."""
