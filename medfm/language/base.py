"""The language model underneath: any causal model of transformers, by shipped name, folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm import assets
from medfm.errors import WeightsError

if TYPE_CHECKING:
    import torch

__all__ = ["load_language"]


def load_language(name: str, *, dtype: torch.dtype) -> tuple[Any, Any, Path]:
    """A causal language model, its tokenizer, and the folder its weights lie in.

    name: one of configs/weights (fetched once), a folder with safetensors, or a hub id (organisation/model).
    No code that comes with the weights is run. Use float32 on a CPU: bfloat16 is many times slower there.
    Raises WeightsError or UnknownName.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; fetching, which takes longer, has its own bar
    folder = assets.base_weights(name)
    here = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **here)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **here)
    except (OSError, ValueError, KeyError) as error:
        found = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{folder} does not open as a causal language model: {found} Expected config.json, tokenizer files and "
            "*.safetensors of a model that the installed transformers knows without code of its own."
        ) from error
    return model, tokenizer, folder
