"""Tiny, randomly initialised models of other people's very classes, saved as folders that transformers opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 8192,
}  # fmt: skip
_EYE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56,
    "patch_size": 14,
}  # fmt: skip
_TURN = (
    "{% for m in messages %}<start>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}\n{% endif %}{% endfor %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)


def _tokenizer(*special: str, **named: str) -> Any:
    """Every byte is a token."""
    words = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", bos_token="<bos>", unk_token="<unk>",
        extra_special_tokens=named,
    )  # fmt: skip
    fast.add_special_tokens({"additional_special_tokens": ["<start>", *special]}, replace_extra_special_tokens=False)
    return fast


def _llava(folder: Path) -> None:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = _tokenizer(image_token="<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_EYE), text_config=LlamaConfig(**_TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=_TURN.replace("IMAGE", "<image>"),
    )  # fmt: skip
    _save(folder, LlavaForConditionalGeneration(config), processor)


def _gemma(folder: Path) -> None:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    tokenizer = _tokenizer(image_token="<soft>", boi_token="<boi>", eoi_token="<eoi>")
    ids = {n: tokenizer.convert_tokens_to_ids(f"<{n}>") for n in ("soft", "boi", "eoi")}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**_TEXT, vocab_size=len(tokenizer), head_dim=16),
        vision_config=SiglipVisionConfig(**_EYE, vision_use_head=False), mm_tokens_per_image=4,
        image_token_index=ids["soft"], boi_token_index=ids["boi"], eoi_token_index=ids["eoi"],
    )  # fmt: skip
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer,
        image_seq_length=4,
        chat_template=_TURN.replace("IMAGE", "<boi>"),
    )
    network = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(network.model.multi_modal_projector.mm_input_projection_weight)  # starts as zeros: blind
    _save(folder, network, processor)


def _qwen(folder: Path) -> None:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = _tokenizer("<vision>", "</vision>", image_token="<|image_pad|>", video_token="<|video_pad|>")
    ids = {n: tokenizer.convert_tokens_to_ids(f"<|{n}_pad|>") for n in ("image", "video")}
    config = Qwen2_5_VLConfig(
        text_config={
            **_TEXT, "vocab_size": len(tokenizer), "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24,
            "fullatt_block_indexes": [0], "window_size": 28,
        },
        image_token_id=ids["image"], video_token_id=ids["video"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<vision>"),
    )  # fmt: skip
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=_TURN.replace("IMAGE", "<vision><|image_pad|></vision>"),
    )
    _save(folder, Qwen2_5_VLForConditionalGeneration(config), processor)


def _idefics(folder: Path) -> None:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlamaConfig,
    )

    tokenizer = _tokenizer(
        "<global-img>", "<end_of_utterance>", image_token="<image>", fake_image_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>", global_image_token="<global-img>",
    )  # fmt: skip
    config = Idefics3Config(
        vision_config={**_EYE}, text_config=LlamaConfig(**_TEXT, vocab_size=len(tokenizer), pad_token_id=0),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
    )  # fmt: skip
    processor = Idefics3Processor(
        Idefics3ImageProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
        ),
        tokenizer, image_seq_len=4, chat_template=_TURN.replace("IMAGE", "<image>"),
    )  # fmt: skip
    _save(folder, Idefics3ForConditionalGeneration(config), processor)


def _save(folder: Path, network: Any, processor: Any) -> None:
    network.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llava": _llava,
    "gemma3": _gemma,
    "qwen2_5_vl": _qwen,
    "idefics3": _idefics,
}


def foreign_folder(family: str, folder: Path) -> Path:
    """A folder with a model of one of `FAMILIES`, the same every time."""
    torch.manual_seed(0)
    FAMILIES[family](folder)
    return folder
