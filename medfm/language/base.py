"""The language model underneath: any causal model of transformers, by shipped name, folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm import assets

if TYPE_CHECKING:
    import torch

__all__ = ["load_language"]


def load_language(name: str, *, dtype: torch.dtype) -> tuple[Any, Any, Path]:
    """A causal language model, its tokenizer, and the folder its weights lie in.

    name: one of configs/weights (fetched once), or a folder with safetensors. Raises WeightsError or UnknownName.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = assets.base_weights(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True), folder
