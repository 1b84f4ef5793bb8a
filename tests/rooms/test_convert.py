"""GGUF to safetensors: a tiny Llama written as llama.cpp would write it comes back number by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize

from medfm.assets.convert import LLAMA_LAYER_NAMES, LLAMA_TOP_NAMES, gguf_llama
from medfm.errors import WeightsError

HEADS, KV_HEADS = 4, 2
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_gguf(path: Path, llama: torch.nn.Module, *, architecture: str = "llama", strange: bool = False) -> None:
    from tokenizers import pre_tokenizers

    writer = GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "12"]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    layers = {theirs: ours for ours, theirs in LLAMA_LAYER_NAMES.items()}
    tops = {theirs: ours for ours, theirs in LLAMA_TOP_NAMES.items()}
    for name, tensor in llama.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        stem = name.removesuffix(".weight")
        array = tensor.numpy()
        if stem in tops:
            writer.add_tensor(f"{tops[stem]}.weight", array)
            continue
        _, _, layer, part = stem.split(".", 3)
        if layers[part] in {"attn_q", "attn_k"}:  # the permutation of llama.cpp's convert_hf_to_gguf.py
            heads = HEADS if layers[part] == "attn_q" else KV_HEADS
            array = array.reshape(heads, 2, array.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"blk.{layer}.{layers[part]}.weight", np.ascontiguousarray(array))
    if strange:
        writer.add_tensor("blk.0.attn_q.bias", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_llama_comes_back_with_the_same_logits_and_its_tokenizer(tmp_path: Path, llama: torch.nn.Module) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_gguf(tmp_path / "tiny.gguf", llama)
    folder = tmp_path / "made"
    folder.mkdir()
    gguf_llama(tmp_path / "tiny.gguf", folder)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.dtype == torch.float32 and model.lm_head.weight is model.model.embed_tokens.weight
    tokens = torch.randint(0, 260, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, llama(tokens).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.tokenize("12") == ["1", "2"], "figures are read one by one even where a merge exists"
    for text in ("12 mm", " a  b\n", "µ 肺 🫁", "<|im_start|>x<|im_end|>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    spoken = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert spoken == "<|im_start|>hi<|im_end|>"


def test_four_bit_blocks_are_read_as_gguf_defines_them() -> None:
    # Q4_1: blocks of 32 with a half-precision step and minimum; value = step * nibble + minimum, low nibbles first
    raw = np.concatenate([np.array([0.5, -1.0], "<f2").view(np.uint8), np.arange(16, dtype=np.uint8) * 17])
    values = dequantize(raw[None], GGMLQuantizationType.Q4_1)[0]
    np.testing.assert_allclose(values, np.tile(np.arange(16) * 0.5 - 1.0, 2))
    ramp = np.linspace(-1, 1, 64, dtype=np.float32)[None]
    back = dequantize(quantize(ramp, GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1)
    assert np.abs(back - ramp).max() < 2 / 2 / 15


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 10, b"GGUF\x03\x00\x00\x00" + b"\xff" * 40])
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable GGUF file"):
        gguf_llama(tmp_path / "bad.gguf", tmp_path)


def test_another_network_is_refused(tmp_path: Path, llama: torch.nn.Module) -> None:
    write_gguf(tmp_path / "a.gguf", llama, architecture="falcon")
    with pytest.raises(WeightsError, match=r"a\.gguf is a falcon"):
        gguf_llama(tmp_path / "a.gguf", tmp_path)
    write_gguf(tmp_path / "b.gguf", llama, strange=True)
    with pytest.raises(WeightsError, match=r"'blk\.0\.attn_q\.bias' has no place in a Llama"):
        gguf_llama(tmp_path / "b.gguf", tmp_path)
