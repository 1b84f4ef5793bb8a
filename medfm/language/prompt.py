"""How a scan and questions about it are laid out for the language model, one question at a time or many packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Packed", "Prompt", "hint_of", "pack"]


@dataclass(frozen=True)
class Prompt:
    """Texts around the parts: `before` [image] facts `after` question `hint` `between` answer `end`.

    The instruction order matters to models trained on chats: image first, then what is known, the question last.
    """

    before: str = "<|im_start|>"
    after: str = "\n"
    hint: str = "\n{}"
    between: str = "<|im_start|>"
    end: str = "<|im_end|>"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def head(self, tokenizer: Any) -> list[int]:
        """Tokens in front of the image."""
        return _ids(tokenizer, self.before)

    def facts(self, tokenizer: Any, facts: str) -> list[int]:
        """Tokens between the image and the questions: what the file's header states, e.g. "CT, axial"."""
        return _ids(tokenizer, facts + self.after)

    def words(self, tokenizer: Any, question: str) -> list[int]:
        """What a person typed is words only: a control mark in it is spelled out, never obeyed."""
        return list(
            tokenizer(" ".join(question.split()), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )

    def padded(self, tokenizer: Any, questions: Sequence[str]) -> Tensor:
        """The words of several questions (N, L), padded with -1."""
        asked = [torch.tensor(self.words(tokenizer, q) or [0]) for q in questions]
        return torch.nn.utils.rnn.pad_sequence(asked, batch_first=True, padding_value=-1)

    def question(self, tokenizer: Any, question: str, hint: str = "") -> list[int]:
        """The question, then what a second look proposes, see `hint_of`."""
        ids = self.words(tokenizer, question)
        if hint:  # answers of some training set: words only, too
            ids += tokenizer(self.hint.format(hint), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids + _ids(tokenizer, self.between)

    def answer(self, tokenizer: Any, answer: str) -> list[int]:
        return _ids(tokenizer, answer) + self.stop(tokenizer)

    def stop(self, tokenizer: Any) -> list[int]:
        return _ids(tokenizer, self.end)


@dataclass(frozen=True)
class Packed:
    """Token numbers of a batch of packed sequences, each (B, T); the image's places hold 0 in `text`.

    segment: 0 = shared prefix, k = k-th question, -1 = padding. position: as if each question stood alone behind the
    prefix. target: the next token where it belongs to an answer, else -100. weight: of that target in the loss.
    """

    text: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor
    weight: Tensor

    def allowed(self) -> Tensor:
        """(B, 1, T, T) boolean: a token sees the prefix and its own question's past, never another question."""
        seen, own = self.segment[:, None, None, :], self.segment[:, None, :, None]
        past = torch.ones(self.text.shape[1], self.text.shape[1], dtype=torch.bool, device=self.text.device).tril()
        itself = torch.eye(self.text.shape[1], dtype=torch.bool, device=self.text.device)  # padding must see something
        return (past & ((seen == 0) | (seen == own)) & (seen >= 0)) | itself


def pack(
    prompt: Prompt, tokenizer: Any, cases: list[tuple[int, str, list[str], list[str], list[str]]], *, limit: int = 160
) -> Packed:  # fmt: skip
    """Lay out cases of (image tokens M, facts, questions, hints, answers), one sequence each, padded to the longest.

    All questions of one image share one copy of its tokens. An answer longer than `limit` tokens is cut with its end
    mark kept off, so nothing teaches the model to stop there; image tokens are never cut.
    """
    rows = []
    for images, facts, questions, hints, answers in cases:
        prefix = prompt.head(tokenizer) + [0] * images + prompt.facts(tokenizer, facts)
        text, segment, position = list(prefix), [0] * len(prefix), list(range(len(prefix)))
        target, weight = [-100] * len(prefix), [0.0] * len(prefix)
        for number, (question, hint, answer) in enumerate(zip(questions, hints, answers, strict=True), 1):
            asked, said = prompt.question(tokenizer, question, hint), prompt.answer(tokenizer, answer)[:limit]
            tokens = asked + said
            text += tokens[:-1]
            segment += [number] * (len(tokens) - 1)
            position += range(len(prefix), len(prefix) + len(tokens) - 1)
            target += [-100] * (len(asked) - 1) + said
            weight += [0.0] * (len(asked) - 1) + [len(said) ** -0.5] * len(said)
        rows.append((text, segment, position, target, weight))
    fills = (0, -1, 0, -100, 0.0)
    return Packed(*(
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row[i]) for row in rows], batch_first=True, padding_value=fill)
        for i, fill in enumerate(fills)
    ))  # fmt: skip


def hint_of(candidates: Sequence[tuple[str, float]]) -> str:
    """Proposed answers and their probabilities as the language model reads them, e.g. "Liver 83%, Spleen 9%"."""
    return ", ".join(f"{text} {probability:.0%}" for text, probability in candidates)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
