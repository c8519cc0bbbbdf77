"""Classifiers of small images: features for distances between sets of images and for feature distillation."""
