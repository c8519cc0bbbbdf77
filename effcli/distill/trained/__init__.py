"""The models that distillation starts from: diffusion models and classifiers, trained from images."""
