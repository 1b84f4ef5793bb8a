"""Small real parts for every test: a phantom data set on disk and a tiny language model that needs no download."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from small_recipes import adapter_recipe, eye_recipe, glance_recipe

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


@pytest.fixture(scope="session")
def tiny_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and a byte-level tokenizer: the shape of the real thing at no cost."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-language")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = {t: i for i, t in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def phantom_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL of questions about pictures of a bright disk on the left or right, with boxes and masks beside them."""
    from PIL import Image

    folder, lines = tmp_path_factory.mktemp("phantom"), []
    rng = np.random.default_rng(0)
    for number in range(12):
        side = ("left", "right")[number % 2]
        image = folder / "images" / f"case{number}"
        image.mkdir(parents=True)
        pixels = rng.integers(20, 60, (96, 80), dtype=np.uint8)
        x = 55 if side == "left" else 25  # radiological order: the patient's left is on the picture's right
        rows, columns = np.mgrid[:96, :80]
        disk = (rows - 48) ** 2 + (columns - x) ** 2 < 15**2
        pixels[disk] = 220
        Image.fromarray(pixels).save(image / "image.png")
        Image.fromarray(np.where(disk, 70, 0).astype(np.uint8)).save(image / "mask.png")
        (image / "boxes.json").write_text(json.dumps([{"label": "Disk", "xywh": [x - 15, 33, 30, 30]}]))
        about = {"image": f"images/case{number}/image.png", "modality": "CT"}
        lines.append({**about, "question": "On which side is the disk?", "answer": side.title(), "answer_type": "OPEN"})
        lines.append({**about, "question": "Is there a disk?", "answer": "Yes", "answer_type": "CLOSED"})
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return file


@pytest.fixture(scope="session")
def eye_folder(phantom_rows: Path, tiny_language: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An eye trained for two steps on the phantoms, as `medfm train pretraining/grounded` leaves it."""
    from medfm.train.loop import train

    return train(eye_recipe(phantom_rows, tiny_language), output=tmp_path_factory.mktemp("eye"))


@pytest.fixture(scope="session")
def glance_folder(
    eye_folder: Path, phantom_rows: Path, tiny_language: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """That eye with its second look, as `medfm train pretraining/glance` leaves it."""
    from medfm.train.loop import train

    return train(glance_recipe(eye_folder, phantom_rows, tiny_language), output=tmp_path_factory.mktemp("glance"))


@pytest.fixture(scope="session")
def adapter_folder(
    glance_folder: Path, phantom_rows: Path, tiny_language: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An adapter of the tiny language model, as `medfm train vqa/default` leaves it."""
    from medfm.train.loop import train

    return train(adapter_recipe(glance_folder, phantom_rows, tiny_language), output=tmp_path_factory.mktemp("adapter"))
