"""Trained policies that teach a group: files of ours, and zips of Stable-Baselines3."""
