"""The language model underneath: any causal model of transformers, by shipped name, folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm import assets
from medfm.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    import torch

__all__ = ["load_language"]


def load_language(name: str, *, dtype: torch.dtype, four_bits: bool = False) -> tuple[Any, Any, Path]:
    """A causal language model, its tokenizer, and the folder its weights lie in.

    name: one of configs/weights (fetched once), a folder with safetensors, or a hub id (organisation/model).
    No code that comes with the weights is run. Use float32 on a CPU: bfloat16 is many times slower there.
    four_bits: weights as NF4 (Dettmers et al., QLoRA, NeurIPS 2023), for training LoRA on a GPU too small for them.
    Raises WeightsError, UnknownName, or ConfigError for four bits without a GPU.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; fetching, which takes longer, has its own bar
    options = _four_bits() if four_bits else {}
    folder = assets.base_weights(name)
    here = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **here)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options, **here)
    except (OSError, ValueError, KeyError) as error:
        found = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{folder} does not open as a causal language model: {found} Expected config.json, tokenizer files and "
            "*.safetensors of a model that the installed transformers knows without code of its own."
        ) from error
    return model, tokenizer, folder


def _four_bits() -> dict[str, Any]:
    import torch

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError("four_bits: bitsandbytes is not here; pip install bitsandbytes") from error
    if not torch.cuda.is_available():
        raise ConfigError("four_bits: found no GPU; bitsandbytes needs one. Leave four_bits out")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )  # fmt: skip
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}
