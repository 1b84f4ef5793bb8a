"""How a scan and questions about it are laid out for the language model, one question at a time or many packed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Packed", "Prompt", "pack"]


@dataclass(frozen=True)
class Prompt:
    """Texts around the parts: `before` [image] facts `after` question `between` answer `end`.

    The instruction order matters to models trained on chats: image first, then what is known, the question last.
    """

    before: str = "<|im_start|>"
    after: str = "\n"
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

    def question(self, tokenizer: Any, question: str) -> list[int]:
        """What a person typed is words only: a control mark in it is spelled out, never obeyed."""
        words = tokenizer(" ".join(question.split()), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return list(words) + _ids(tokenizer, self.between)

    def answer(self, tokenizer: Any, answer: str) -> list[int]:
        return _ids(tokenizer, answer) + self.stop(tokenizer)

    def stop(self, tokenizer: Any) -> list[int]:
        return _ids(tokenizer, self.end)


@dataclass(frozen=True)
class Packed:
    """Token numbers of a batch of packed sequences, each (B, T); the image's places and the glances' hold 0 in `text`.

    segment: 0 = shared prefix, k = k-th question, -1 = padding. position: as if each question stood alone behind the
    prefix. target: the next token where it belongs to an answer, else -100. weight: of that target in the loss.
    glance: 1 where the vectors of a second look belong. asked (N, L): tokens of every question in order, -1 = padding,
    and `row` (N,) the sequence it belongs to.
    """

    text: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor
    weight: Tensor
    glance: Tensor
    asked: Tensor
    row: Tensor

    def allowed(self) -> Tensor:
        """(B, 1, T, T) boolean: a token sees the prefix and its own question's past, never another question."""
        seen, own = self.segment[:, None, None, :], self.segment[:, None, :, None]
        past = torch.ones(self.text.shape[1], self.text.shape[1], dtype=torch.bool, device=self.text.device).tril()
        itself = torch.eye(self.text.shape[1], dtype=torch.bool, device=self.text.device)  # padding must see something
        return (past & ((seen == 0) | (seen == own)) & (seen >= 0)) | itself


def pack(
    prompt: Prompt, tokenizer: Any, cases: list[tuple[int, str, list[str], list[str]]], *, glance: int = 0,
    limit: int = 160,
) -> Packed:  # fmt: skip
    """Lay out cases of (image tokens M, facts, questions, answers), one sequence each, padded to the longest.

    All questions of one image share one copy of its tokens. An answer longer than `limit` tokens is cut with its end
    mark kept off, so nothing teaches the model to stop there; image tokens are never cut. `glance` places are kept free
    between a question and its answer.
    """
    rows: list[tuple[list[Any], ...]] = []
    every: list[tuple[int, torch.Tensor]] = []
    for images, facts, questions, answers in cases:
        head = prompt.head(tokenizer)
        prefix = head + [0] * images + prompt.facts(tokenizer, facts)
        text, segment, position = list(prefix), [0] * len(prefix), list(range(len(prefix)))
        target, weight, look = [-100] * len(prefix), [0.0] * len(prefix), [0] * len(prefix)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True), 1):
            asked, said = prompt.question(tokenizer, question), prompt.answer(tokenizer, answer)[:limit]
            every.append((len(rows), torch.tensor(asked)))
            look += [0] * len(asked) + [1] * glance + [0] * (len(said) - 1)
            asked = asked + [0] * glance
            tokens = asked + said
            text += tokens[:-1]
            segment += [number] * (len(tokens) - 1)
            position += range(len(prefix), len(prefix) + len(tokens) - 1)
            target += [-100] * (len(asked) - 1) + said
            weight += [0.0] * (len(asked) - 1) + [len(said) ** -0.5] * len(said)
        rows.append((text, segment, position, target, weight, look))
    fills = (0, -1, 0, -100, 0.0, 0)
    columns = [
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row[i]) for row in rows], batch_first=True, padding_value=fill)
        for i, fill in enumerate(fills)
    ]
    questions_asked = torch.nn.utils.rnn.pad_sequence([ids for _, ids in every], batch_first=True, padding_value=-1)
    columns += [questions_asked, torch.tensor([row for row, _ in every])]
    return Packed(*columns)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
