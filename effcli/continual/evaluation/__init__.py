"""How well classes are told apart: after each task, and class by class."""
