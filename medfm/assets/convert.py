"""Foreign weight files to a folder of safetensors and JSON; nothing here can execute code from the file."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm.assets.tensors import readable, write_tensors
from medfm.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

__all__ = ["CONVERTERS", "gguf_llama", "torch_tensors"]

LLAMA_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL: <|im_start|> and the like, never split


def torch_tensors(source: Path, folder: Path) -> None:
    """Rewrite a `torch.save`d dict of tensors as `folder/model.safetensors`, names and dtypes kept.

    Raises WeightsError when the file holds anything but tensors.
    """
    import torch

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{source.name} is not a plain file of tensors ({(str(error) or type(error).__name__).splitlines()[0]}). "
            "It was not opened further, because such a file can run code. Use a file saved as a state dict."
        ) from error
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{source.name} holds a {type(state).__name__}; expected a dict of name -> tensor.")
    strange = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if strange:
        raise WeightsError(f"{source.name} holds {strange[0]!r}, which is not a named tensor; expected tensors only.")
    # clone: tensors of a checkpoint may be views of one storage, which safetensors refuses
    write_tensors({name: value.contiguous().clone() for name, value in state.items()}, folder / "model.safetensors")


def gguf_llama(source: Path, folder: Path) -> None:
    """Dequantise a Llama-type GGUF into a folder that `transformers` opens offline, with tokenizer and chat template.

    Weights are written as float32: what the CPU computes in, and memory-mapped without a cast.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    try:
        reader = GGUFReader(source)
    except (ValueError, OSError, IndexError) as error:
        raise WeightsError(f"{source.name} is not a readable GGUF file ({error}). Fetch it again.") from error
    meta = {key: field.contents() for key, field in reader.fields.items()}
    if meta.get("general.architecture") != "llama" or meta.get("tokenizer.ggml.model") != "gpt2":
        raise WeightsError(
            f"{source.name} is a {meta.get('general.architecture')} with a {meta.get('tokenizer.ggml.model')} "
            "tokenizer; only Llama networks with a byte-level BPE (gpt2) tokenizer are converted."
        )
    save_file(dict(_llama_tensors(reader, meta)), folder / "model.safetensors", metadata={"format": "pt"})
    readable(folder / "model.safetensors")
    _write_json(
        folder / "config.json", _llama_config(meta, tied="output.weight" not in {t.name for t in reader.tensors})
    )
    _write_json(folder / "generation_config.json", _special_ids(meta))
    _save_tokenizer(meta, folder)


CONVERTERS = {"torch-tensors": torch_tensors, "gguf-llama": gguf_llama}


def _llama_tensors(reader: GGUFReader, meta: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np
    from gguf import dequantize

    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        stem = tensor.name.removesuffix(".weight")
        if stem in LLAMA_TOP_NAMES:
            yield f"{LLAMA_TOP_NAMES[stem]}.weight", array
            continue
        place = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if place is None or place[2] not in LLAMA_LAYER_NAMES:
            raise WeightsError(
                f"GGUF tensor {tensor.name!r} has no place in a Llama network; the file is of another model."
            )
        layer, part = place.groups()
        if part in heads:
            # llama.cpp interleaves each head's two rotary halves; transformers keeps them one after the other
            rows, columns = array.shape
            array = (
                array.reshape(heads[part], rows // heads[part] // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
            )
        yield f"model.layers.{layer}.{LLAMA_LAYER_NAMES[part]}.weight", np.ascontiguousarray(array)


def _llama_config(meta: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        **_special_ids(meta),
    }


def _special_ids(meta: dict[str, Any]) -> dict[str, int]:
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {ours: meta[f"tokenizer.ggml.{theirs}"] for ours, theirs in keys.items()}


def _save_tokenizer(meta: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = meta["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    # "smollm" in llama.cpp: every digit is a token of its own, so that numbers are read figure by figure
    splits_digits = meta.get("tokenizer.ggml.pre") == "smollm"
    digits = [pre_tokenizers.Digits(individual_digits=True)] if splits_digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        token for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL_TOKEN
    ]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    ids = _special_ids(meta)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[ids["bos_token_id"]],
        eos_token=tokens[ids["eos_token_id"]],
        pad_token=tokens[ids["pad_token_id"]],
        unk_token=tokens[meta["tokenizer.ggml.unknown_token_id"]],
        additional_special_tokens=control,
        model_max_length=meta["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=meta["tokenizer.chat_template"],
    )
    fast.save_pretrained(folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
