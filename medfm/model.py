"""MedFM: the eye, the language model and their adapter, as one Hugging Face model."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from medfm import assets
from medfm.errors import AdapterMismatch, UnknownName
from medfm.language.base import load_language
from medfm.language.decode import decode, prefill
from medfm.language.foreign import is_foreign, load_foreign
from medfm.language.prompt import Packed, Prompt, hint_of
from medfm.language.quiet import adapting
from medfm.language.shared import share_language
from medfm.metrics import normalise_answer
from medfm.prepare import Prepare, Prepared
from medfm.scan import Scan
from medfm.vision import Vision

__all__ = ["MedFM", "MedFMConfig", "Reading", "load"]

_NEAR = 0.4  # of the best proposal's probability: less likely ones only tempt the language model away from it


class MedFMConfig(PretrainedConfig):
    """What a MedFM is made of; `medfm.json` of an adapter folder holds the same keys.

    vision: `encoder` node, `labels`, `width`, `answers`. prepare, prompt: their fields. language: name of the base (see
    configs/weights) and language_config its architecture. base: sha256 of the base weights. abstain: confidence below
    which the model declines.
    """

    model_type = "medfm"

    def __init__(
        self, vision: dict[str, Any] | None = None, prepare: dict[str, Any] | None = None,
        prompt: dict[str, Any] | None = None, language: str = "", language_config: dict[str, Any] | None = None,
        base: str = "", abstain: float = 0.0, **more: Any,
    ) -> None:  # fmt: skip
        self.vision, self.prepare, self.prompt = vision or {}, prepare or {}, prompt or {}
        self.language, self.language_config, self.base, self.abstain = language, language_config or {}, base, abstain
        super().__init__(**more)


@dataclass(frozen=True)
class Reading:
    """A scan as read once: what the encoder took, structure maps (1, K, D, h, w), the language model's memory of it
    (`prefix`), and what a second look can look at (`memory`, see Seen)."""

    prepared: Prepared
    logits: Tensor
    prefix: Any
    memory: Tensor | None


class MedFM(PreTrainedModel):
    """Reads scans once and answers many questions.

    `vision` maps (B, 3, D, S, S) to tokens; `language` is any causal model of transformers. The tokenizer is attached
    by `load`; `forward` is the training step on packed questions.
    """

    config_class = MedFMConfig
    base_model_prefix = "medfm"

    def __init__(self, config: MedFMConfig, language: Any = None, tokenizer: Any = None) -> None:
        super().__init__(config)
        if language is None:
            about = AutoConfig.for_model(**config.language_config)
            language = AutoModelForCausalLM.from_config(about)
        config.language_config = language.config.to_dict()
        self.vision = Vision(**config.vision)
        self.language: Any = language
        self.tokenizer = tokenizer
        self.preparation = Prepare.from_dict(config.prepare)
        self.prompt = Prompt(**config.prompt)
        self._readings: OrderedDict[tuple[str, str | None], Reading] = OrderedDict()
        self.name = ""
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every part initialises itself; what transformers would do here overwrites that."""

    def get_input_embeddings(self) -> nn.Embedding:
        words: nn.Embedding = self.language.get_input_embeddings()
        return words

    def embed(self, packed: Packed, tokens: Tensor) -> Tensor:
        """Word vectors of a packed batch with the image tokens (B, M, E) in their places."""
        head = len(self.prompt.head(self.tokenizer))
        words = self.get_input_embeddings()(packed.text)
        return torch.cat([words[:, :head], tokens.to(words.dtype), words[:, head + tokens.shape[1] :]], 1)

    @torch.no_grad()
    def candidates(
        self, memory: Tensor, questions: Sequence[str], *, most: int = 3, only: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each question the known answers that a second look at `memory` (1, looks, M, I) finds likeliest, best
        first, with their probabilities; those under a twentieth, or far less likely than the best, are left out.
        only: ask one member of the panel."""
        return self._likeliest(self.shares(memory, questions, only=only), most=most)

    @torch.no_grad()
    def shares(self, memory: Tensor, questions: Sequence[str], *, only: int | None = None) -> Tensor:
        """Probability (N, answers) that a second look gives to each known answer."""
        assert self.vision.glance is not None
        asked = self.prompt.padded(self.tokenizer, questions).to(self.device)
        words = self.get_input_embeddings()(asked.clamp(min=0)).float()
        return self.vision.glance(words, asked >= 0, memory, asked.new_zeros(len(asked)), only=only).exp()

    def _likeliest(self, shares: Tensor, *, most: int = 3) -> list[list[tuple[str, float]]]:
        best = shares.topk(min(most, shares.shape[1]))
        return [
            [(self.vision.answers[i], p) for i, p in zip(row, values, strict=True) if p >= max(0.05, _NEAR * values[0])]
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def forward(self, x: Tensor, spacing: Tensor, packed: Packed) -> CausalLMOutputWithPast:
        """Loss over the answers of a packed batch; logits only where an answer token is predicted: (answers, V)."""
        inputs = self.embed(packed, self.vision(x, spacing).tokens)
        loss, logits = self.answer_loss(inputs, packed)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def answer_loss(self, inputs: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        trunk = getattr(self.language, "get_base_model", lambda: self.language)()
        body = trunk.get_decoder() if hasattr(trunk, "get_decoder") else trunk.model
        hidden = body(
            inputs_embeds=inputs, attention_mask=packed.allowed(), position_ids=packed.position, use_cache=False
        )[0]
        where = packed.target != -100
        logits = self.language.get_output_embeddings()(hidden[where])
        each = nn.functional.cross_entropy(logits.float(), packed.target[where], reduction="none")
        weight = packed.weight[where]
        return (each * weight).sum() / weight.sum(), logits

    @torch.inference_mode()
    def read(self, scan: Scan, *, plane: str | None = None) -> Reading:
        """Encode `scan` and let the language model take it in; kept for the last four scans, by content."""
        key = (scan.content_hash, plane)
        if key not in self._readings:
            self._readings[key] = self.encode(self.preparation(scan, plane=plane))
        self._readings.move_to_end(key)
        if len(self._readings) > 4:
            self._readings.popitem(last=False)
        return self._readings[key]

    @torch.inference_mode()
    def encode(self, prepared: Prepared) -> Reading:
        """Run the eye and prefill the language model with its tokens and the header's facts; nothing is cached."""
        seen = self.vision(prepared.x[None].float().to(self.device), prepared.spacing[None].to(self.device))
        return self.take_in(prepared, seen.logits, seen.tokens, seen.memory)

    @torch.inference_mode()
    def take_in(self, prepared: Prepared, logits: Tensor, tokens: Tensor, memory: Tensor | None) -> Reading:
        """The rest of `encode`, for tokens (1, M, E) that are there already."""
        words = self.get_input_embeddings()
        head, rest = self.prompt.head(self.tokenizer), self.prompt.facts(self.tokenizer, prepared.facts)
        first, last = (words(torch.tensor([ids], dtype=torch.long, device=self.device)) for ids in (head, rest))
        prefix = prefill(self.language, torch.cat([first, tokens.to(first.dtype), last], 1))
        return Reading(prepared, logits.cpu(), prefix, memory)  # maps are drawn and measured there

    def respond(self, prepared: Prepared, questions: list[str], *, limit: int = 64) -> list[tuple[str, float]]:
        """Answers and their log-probabilities for an already prepared scan."""
        return self.finish(self.encode(prepared), questions, limit=limit)

    def finish(self, reading: Reading, questions: Sequence[str], *, limit: int = 64) -> list[tuple[str, float]]:
        """What `answers` yields last."""
        return list(self.answers(reading, list(questions), limit=limit))[-1]

    def answers(self, reading: Reading, questions: list[str], *, limit: int = 64) -> Iterator[list[tuple[str, float]]]:
        """Yield, step by step, every question's text so far and the log-probability of it; the last is the answer.

        A text that the panel knows has the panel's probability: it doubts where the language model, which mostly
        repeats it, is sure (calibration error on SLAKE 3 instead of 6 %).
        """
        shares = None if reading.memory is None else self.shares(reading.memory, questions)
        known = {normalise_answer(answer): number for number, answer in enumerate(self.vision.answers)}
        stop = set(self.prompt.stop(self.tokenizer)) | {self.tokenizer.eos_token_id}
        said: list[list[int]] = [[] for _ in questions]
        sums = [0.0] * len(questions)
        for tokens, logps in decode(
            self.language, reading.prefix, self.asked(questions, shares), stop=stop, limit=limit
        ):  # fmt: skip
            for row, token in enumerate(tokens):
                sums[row] += logps[row]
                if token is not None:
                    said[row].append(token)
            texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said]
            numbers = [known.get(normalise_answer(text)) for text in texts]
            yield [
                (text, total if shares is None or number is None else float(shares[row, number].log()))
                for row, (text, number, total) in enumerate(zip(texts, numbers, sums, strict=True))
            ]

    @torch.no_grad()
    def asked(self, questions: Sequence[str], shares: Tensor | None) -> list[Tensor]:
        """Each question as word vectors (L, E), behind it what a second look with these `shares` proposes."""
        hints = [""] * len(questions) if shares is None else [hint_of(c) for c in self._likeliest(shares)]
        words = self.get_input_embeddings()
        asked = (self.prompt.question(self.tokenizer, q, h) for q, h in zip(questions, hints, strict=True))
        return [words(torch.tensor(ids, device=self.device)) for ids in asked]


def load(name: str | Path = "default", *, device: str = "cpu", share: bool = False) -> MedFM:
    """Load an adapter, shipped or one's own, by name, or a folder holding one, on its base model.

    share: keep one base in memory for all adapters loaded so, and switch between them when they are asked. Else the
    adapter is merged into a base of its own, which answers faster.

    "hf:OWNER/NAME", a folder of transformers, or an adapter of such a model gives a `language.foreign.Foreign`, which
    the same verbs take.

    Raises:
        UnknownName: no such adapter, or one of a task, which answers no questions. AdapterMismatch: it was trained on
            other base weights. WeightsError: the base weights cannot be had.
    """
    if is_foreign(name):
        return cast("MedFM", load_foreign(name, device=device))
    folder = assets.adapter_folder(name)
    about = json.loads((folder / "medfm.json").read_text())
    if "kind" in about:
        raise UnknownName(
            f"{folder.name!r} is a model of kind {about['kind']!r}, which answers no questions; 'default' does"
        )
    config = MedFMConfig(**about)
    adapted = (folder / "adapter_config.json").exists()
    merged = folder / config.language  # of `medfm adapter merge`, which carries its language model along
    base = str(merged) if (merged / "config.json").exists() else config.language
    if share and adapted:
        language, tokenizer, where = share_language(base, folder, dtype=torch.float32)
        check_base(folder, _digest(where))
    else:
        language, tokenizer, digest = base_language(base)
        check_base(folder, digest)
        if adapted:
            from peft import PeftModel

            with adapting():
                language = PeftModel.from_pretrained(language, str(folder)).merge_and_unload()
    model = MedFM(config, language.get_base_model() if share and adapted else language.eval(), tokenizer)
    model.language = language  # put in late where it is shared: transformers would tie its weights by wrong names
    model.vision.load_state_dict(load_vision(folder)[1])
    model.name = folder.name
    return model.eval().to(device)


def check_base(folder: Path, digest: str) -> None:
    """Raise AdapterMismatch where the adapter in `folder` was trained on another base than the one with this hash."""
    about = json.loads((folder / "medfm.json").read_text())
    if about["base"] != digest:
        raise AdapterMismatch(
            f"adapter {folder.name} was trained on {about['language']} with hash {about['base'][:12]}, "
            f"found {digest[:12]}; remove the cached base weights and let them be fetched again, or retrain the adapter"
        )


def load_vision(name: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An eye left by `objectives/grounded`, or an adapter's: {labels, prepare, answers} and tensors in float."""
    folder = Path(name) if (Path(name) / "vision.safetensors").exists() else assets.adapter_folder(name)
    tensors = assets.eye_tensors(folder)
    if (folder / "vision.json").exists():
        about = json.loads((folder / "vision.json").read_text())
    else:
        saved = json.loads((folder / "medfm.json").read_text())
        vision = saved["vision"]
        about = {
            "labels": vision["labels"], "prepare": saved["prepare"], "answers": vision.get("answers", []),
            "looks": vision.get("looks", 1),
        }  # fmt: skip
    return about, {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def base_language(name: str, *, four_bits: bool = False) -> tuple[Any, Any, str]:
    """A language model in full precision, or in four bits, its tokenizer and the sha256 of its weights."""
    language, tokenizer, folder = load_language(name, dtype=torch.float32, four_bits=four_bits)
    return language, tokenizer, _digest(folder)


def save_adapter(model: MedFM, folder: Path, *, parent: Path | None = None) -> None:
    """Write `medfm.json`, the eye and its connector in half precision, and the PEFT adapter.

    parent: folder of the adapter this one was made from; of the eye only what has changed since is stored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_from = assets.write_eye(model.vision.state_dict(), folder, parent=parent)
    if hasattr(model.language, "peft_config"):
        model.language.save_pretrained(str(folder), save_embedding_layers=False)
        file = folder / "adapter_model.safetensors"
        assets.write_tensors({n: t.half() for n, t in load_file(file).items()}, file)
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = assets.hub_id(model.config.language)  # not where it lay on this machine
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    about = {k: getattr(model.config, k) for k in ("vision", "prepare", "prompt", "language", "base", "abstain")}
    about |= {"parent": made_from} if made_from else {}
    (folder / "medfm.json").write_text(json.dumps(about, indent=1) + "\n")


def save_merged(model: MedFM, folder: Path) -> None:
    """Write a loaded model so that it needs neither its base nor its parent: `folder/language` is a plain causal
    language model of transformers with the adapter merged in."""
    language = folder / "language"
    model.language.save_pretrained(str(language))
    model.tokenizer.save_pretrained(str(language))
    for file in language.glob("*.safetensors"):
        assets.readable(file)
    assets.write_eye(model.vision.state_dict(), folder)
    about = {k: getattr(model.config, k) for k in ("vision", "prepare", "prompt", "abstain")}
    about |= {"language": "language", "base": _digest(language)}
    (folder / "medfm.json").write_text(json.dumps(about, indent=1) + "\n")


def _digest(folder: Path) -> str:
    """sha256 of the weights in a folder, computed once a process for the same files."""
    files = tuple(sorted(folder.glob("*.safetensors")))
    return _hash(files, tuple((f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=8)
def _hash(files: tuple[Path, ...], _stats: tuple[tuple[int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
