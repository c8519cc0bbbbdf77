"""Detectors that EGOR can teach: our GFL, and those of torchvision behind the same interface."""
