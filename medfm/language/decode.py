"""Greedy answers behind a kept prefix: a scan's keys and values are computed once, a question adds its words."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["decode", "prefill"]


@torch.inference_mode()
def prefill(language: Any, embeddings: Tensor) -> Any:
    """Keys and values of a prefix (1, P, E)."""
    from transformers import DynamicCache

    cache = DynamicCache(config=language.config)
    language(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1, **_named(language, cache))
    return cache  # filled in place; what the result calls it differs between versions


def _named(language: Any, cache: Any) -> dict[str, Any]:
    """The cache under the name by which the model takes it: transformers' own say "cache" by now, code that comes
    with a model still "past_key_values"."""
    trunk = getattr(language, "get_base_model", lambda: language)()
    return {"cache" if "cache" in inspect.signature(trunk.forward).parameters else "past_key_values": cache}


@torch.inference_mode()
def decode(
    language: Any, prefix: Any, questions: list[Tensor], *, stop: set[int], limit: int
) -> Iterator[tuple[list[int | None], list[float]]]:
    """Answer N questions, each (L, E) word vectors, behind one prefix; each step yields N tokens (None once
    ended) and their log-probabilities.

    The end mark is yielded as None with its log-probability, so that the product over a row is the probability of the
    whole answer. `prefix` itself is left untouched.
    """
    count, longest = len(questions), max(map(len, questions))
    device = next(language.parameters()).device
    start = prefix.get_seq_length()
    cache = copy.deepcopy(prefix)
    if count > 1:
        cache.batch_repeat_interleave(count)
    words = language.get_input_embeddings()
    inputs = torch.stack([torch.cat([q.new_zeros(longest - len(q), q.shape[1]), q]) for q in questions])
    real = torch.tensor([[0] * (longest - len(q)) + [1] * len(q) for q in questions], device=device)
    mask = torch.cat([torch.ones(count, start, dtype=torch.long, device=device), real], 1)
    position = (start + real.cumsum(1) - 1).clamp(min=start)
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    named = _named(language, cache)
    for _ in range(limit):
        result = language(
            inputs_embeds=inputs, attention_mask=mask, position_ids=position, use_cache=True, logits_to_keep=1,
            **named,
        )  # fmt: skip
        probability = result.logits[:, -1].float().log_softmax(-1)
        logp, token = probability.max(-1)
        closing = torch.tensor([int(t) in stop for t in token], device=device)
        yield (
            [None if e or c else int(t) for e, c, t in zip(ended, closing, token, strict=True)],
            [0.0 if e else float(v) for e, v in zip(ended, logp, strict=True)],
        )
        ended = ended | closing
        if bool(ended.all()):
            return
        inputs = words(token[:, None])
        mask = torch.cat([mask, mask.new_ones(count, 1)], 1)
        position = position[:, -1:] + 1
