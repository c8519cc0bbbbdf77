"""The images that a diffusion model or a classifier is trained on."""

from __future__ import annotations

from effcli.data.image_sets import ImageSet, load_images
from effcli.data.stored_files import Split
from effcli.distill.recipe import ImageModelRecipe


def load_training_images(recipe: ImageModelRecipe, split: Split = "train") -> ImageSet:
    """The images of a recipe of `effcli distill train`."""
    return load_images(recipe.data.source, split, side=recipe.data.side, channels=recipe.data.channels)


def plan_of_images(recipe: ImageModelRecipe, images: ImageSet) -> dict[str, int | float]:
    """How many there are, and how often a training passes over them."""
    return {
        "train_images": len(images),
        "classes": len(images.classes),
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / len(images), 1),
    }
