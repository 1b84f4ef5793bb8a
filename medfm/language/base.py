"""Any causal language model of `transformers`, by name, folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm.assets import base_weights
from medfm.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_language"]


def load_language(name_or_path: str | Path, *, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (in evaluation mode) and tokenizer of what `assets.base_weights` finds: a shipped name, a folder, a hub id.

    Only safetensors are read and no code from the folder is run. On a CPU use float32: bfloat16 is many times slower.
    Raises UnknownName and WeightsError.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = base_weights(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{folder} does not open as a causal language model: {str(error).strip().splitlines()[0]} "
            "Expected config.json, tokenizer files and *.safetensors of a model that the installed transformers knows."
        ) from error
    return model.eval(), tokenizer
