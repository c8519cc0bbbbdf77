"""Very small text encoders with random weights, beside their tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

_LETTERS = [chr(c) for c in range(97, 123)]


def save_clip(folder: Path, number: str = "", *, width: int, projection: int | None = None) -> None:
    """``text_encoder{number}`` and ``tokenizer{number}``: 6 tokens of ``width``; pooled with ``projection``."""
    import transformers

    place = folder / f"tokenizer{number}"
    place.mkdir(parents=True)
    tokens = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    (place / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=6
    )
    tokenizer.save_pretrained(place)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=6,
        bos_token_id=0,
        eos_token_id=1,
        projection_dim=projection or 8,
    )
    torch.manual_seed(0)
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    kind(config).save_pretrained(folder / f"text_encoder{number}")


def save_t5(folder: Path, number: str = "", *, width: int) -> None:
    """The same with T5."""
    import transformers
    from tokenizers import Tokenizer, models

    pieces = ["<pad>", "</s>", "<unk>", *(f"\u2581{letter}" for letter in _LETTERS), *_LETTERS]
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    tokenizer = transformers.T5TokenizerFast(tokenizer_object=inner, extra_ids=0, model_max_length=8)
    tokenizer.save_pretrained(folder / f"tokenizer{number}")
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    torch.manual_seed(0)
    transformers.T5EncoderModel(config).save_pretrained(folder / f"text_encoder{number}")
