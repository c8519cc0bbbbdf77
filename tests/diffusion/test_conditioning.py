"""Guidance against its formula; conditions that are missing."""

import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel
from tests.diffusion.tiny_models import SCHEDULER, tiny_conditional_unet, tiny_unet


def test_guidance_mixes_with_and_without_the_class():
    unet = tiny_unet(num_class_embeds=5)
    model = DiffusionModel(unet, SCHEDULER, "x")
    guided = Guided(model, unet, guidance=3.0, null_class=4)
    condition = guided.random_condition(2, torch.Generator().manual_seed(0))
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        out = guided.predictor(condition)(x, 9)
        with_class = unet(x, 9, class_labels=condition["class_labels"]).sample
        without = unet(x, 9, class_labels=torch.tensor([4, 4])).sample
    torch.testing.assert_close(out, without + 3 * (with_class - without), rtol=1e-4, atol=1e-5)


def test_no_class_is_not_one_of_the_random_classes():
    unet = tiny_unet(num_class_embeds=4)
    model = DiffusionModel(unet, SCHEDULER, "x")
    for null_class, classes in ((1, [0, 2, 3]), (3, [0, 1, 2]), (None, [0, 1, 2, 3])):
        guided = Guided(model, unet, null_class=null_class)
        condition = guided.random_condition(200, torch.Generator().manual_seed(0))
        assert condition["class_labels"].unique().tolist() == classes


def test_no_guidance_without_something_to_guide_by():
    unet = tiny_unet()
    with pytest.raises(InputError, match="unconditional model cannot be guided"):
        Guided(DiffusionModel(unet, SCHEDULER, "x"), unet, guidance=2.0)
    unet = tiny_unet(num_class_embeds=5)
    with pytest.raises(InputError, match="label that means no class"):
        Guided(DiffusionModel(unet, SCHEDULER, "x"), unet, guidance=2.0)


def test_a_text_model_without_its_encoder_is_refused():
    unet = tiny_conditional_unet()
    with pytest.raises(InputError, match="is a text-conditional model without tokenizer/"):
        Guided(DiffusionModel(unet, SCHEDULER, "x"), unet)
