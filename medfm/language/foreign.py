"""Other people's vision-language models behind the same verbs: any `AutoModelForImageTextToText` of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfm import assets
from medfm.errors import DataError, WeightsError
from medfm.language.quiet import adapting
from medfm.prepare import Prepare, Prepared
from medfm.scan import Scan

__all__ = ["Foreign", "ForeignReading", "is_foreign", "load_foreign"]

# One slice in three channels, as MedGemma 1.5 was trained: everything, soft tissue, brain (level, width in HU).
_WINDOWS = ((0.0, 2048.0), (40.0, 350.0), (40.0, 80.0))
_PREPARE = {"size": 448, "max_slices": 16, "windows": _WINDOWS, "thin": True}


@dataclass(frozen=True)
class ForeignReading:
    """A scan as pictures; such a model takes them in anew with every question."""

    prepared: Prepared


class ForeignConfig:
    """What a `medfm.json` of kind "foreign" holds besides the kind: see `Foreign.save`."""

    def __init__(self, *, language: str, abstain: float = 0.0, prepare: dict[str, Any] | None = None) -> None:
        self.language, self.abstain, self.prepare = language, abstain, prepare or dict(_PREPARE)
        self.report: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"language": self.language, "abstain": self.abstain, "prepare": self.prepare}


class Foreign:
    """Speaks what the verbs need of a model: `read`, `answers`, `config`, `name`. It has no eye of ours (`vision` is
    None), so its answers carry no boxes.

    The protocol: what the header tells, then the pictures, of a volume evenly spaced slices with "SLICE n of N" behind
    each, then the question, last; a question before the pictures makes such models answer from a template
    (google-health/medgemma, issue 76). CT in HU becomes three windows as red, green and blue. Nothing is ever cut: a
    prompt too long for the model is an error of the model's, not a shorter prompt.

    network: the model. processor: its processor, with a chat template.
    """

    vision = None

    def __init__(self, network: Any, processor: Any, config: ForeignConfig, *, name: str) -> None:
        if not getattr(processor, "chat_template", None):
            raise WeightsError(
                f"{name}: its processor has no chat template, so it is not known how to ask it; take the "
                "instruction-tuned version, or put a chat_template.jinja into its folder"
            )
        self.network, self.processor, self.config, self.name = network.eval(), processor, config, name
        self.preparation = Prepare.from_dict(config.prepare)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's."""
        state: dict[str, Tensor] = self.network.state_dict()
        return state

    def read(self, scan: Scan, *, plane: str | None = None) -> ForeignReading:
        """The scan as pictures."""
        return self.reading(self.preparation(scan, plane=plane))

    def reading(self, prepared: Prepared) -> ForeignReading:
        """Of a scan that is prepared already."""
        return ForeignReading(prepared)

    def answers(
        self, reading: ForeignReading, questions: Sequence[str], *, limit: int = 64
    ) -> Iterator[list[tuple[str, float]]]:
        """Every question's answer and its log-probability, yielded once when all are answered."""
        yield [self._answer(reading.prepared, question, limit=limit) for question in questions]

    def finish(self, reading: ForeignReading, questions: Sequence[str], *, limit: int = 64) -> list[tuple[str, float]]:
        """What `answers` yields last."""
        return list(self.answers(reading, questions, limit=limit))[-1]

    @torch.inference_mode()
    def _answer(self, prepared: Prepared, question: str, *, limit: int) -> tuple[str, float]:
        given = self.tokens(prepared, question).to(self.network.device)
        made = self.network.generate(
            **given, max_new_tokens=limit, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        said = made.sequences[0, given["input_ids"].shape[1] :]
        total = sum(float(row[0].float().log_softmax(-1)[t]) for row, t in zip(made.logits, said, strict=False))
        text: str = self.processor.decode(said, skip_special_tokens=True)
        return text.strip(), total

    def tokens(self, prepared: Prepared, question: str, *, answer: str | None = None) -> Any:
        """What the network takes: input_ids (1, L), pixel_values and whatever else its processor makes.

        answer: said by the model behind the question, for training. Raises DataError where the processor left out
        a picture.
        """
        talk = [{"role": "user", "content": self._content(prepared, question)}]
        if answer is not None:
            talk.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        given = self.processor.apply_chat_template(
            talk, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=answer is None
        )
        if "pixel_values" not in given:
            raise DataError(f"{self.name}: its chat template has no place for pictures, so the scan would go unseen")
        return given

    def labelled(self, prepared: Prepared, question: str, answer: str) -> Any:
        """`tokens` with `labels`: the answer's tokens, -100 everywhere else. Raises DataError for a chat template that
        writes the question differently once it is answered."""
        asked, whole = self.tokens(prepared, question), self.tokens(prepared, question, answer=answer)
        count = asked["input_ids"].shape[1]
        if not torch.equal(whole["input_ids"][:, :count], asked["input_ids"]):
            raise DataError(f"{self.name}: its chat template changes the question once there is an answer")
        labels = whole["input_ids"].clone()
        labels[:, :count] = -100
        whole["labels"] = labels
        return whole

    def _content(self, prepared: Prepared, question: str) -> list[dict[str, Any]]:
        from PIL import Image

        # (3, D, S, S) in [0, 1] -> pictures
        slices = (prepared.x.float() * 255).round().byte().permute(1, 2, 3, 0).numpy()
        depth = len(slices)
        parts: list[dict[str, Any]] = []
        total = round(prepared.slab * depth)
        told = prepared.facts
        if depth > 1:
            told = f"{f'{told}. ' if told else ''}{depth} of {total} slices of one scan, in order."
        if told:
            parts.append({"type": "text", "text": told})
        for index, source in zip(range(depth), np.linspace(1, total, depth).round().astype(int), strict=True):
            parts.append({"type": "image", "image": Image.fromarray(slices[index])})
            if depth > 1:
                parts.append({"type": "text", "text": f"SLICE {source} of {total}"})
        return [*parts, {"type": "text", "text": question}]

    def save(self, folder: Path) -> None:
        """Write the LoRA as plain PEFT and `medfm.json`, which names the model it belongs to."""
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save_pretrained(str(folder))
        assets.readable(folder / "adapter_model.safetensors")
        about = {"kind": "foreign", **self.config.to_dict()}
        (folder / "medfm.json").write_text(json.dumps(about, indent=1) + "\n")


def is_foreign(name: str | Path) -> bool:
    """Whether `name` is a model of transformers ("hf:OWNER/NAME", or a folder of one) or an adapter of such a model."""
    if str(name).startswith("hf:"):
        return True
    folder = Path(name)
    if (folder / "config.json").exists() and not (folder / "medfm.json").exists():
        return True
    own = [f for f in (folder, assets.home_dir() / "adapters" / str(name)) if (f / "medfm.json").exists()]
    return bool(own) and json.loads((own[0] / "medfm.json").read_text()).get("kind") == "foreign"


def load_foreign(name: str | Path, *, device: str = "cpu") -> Foreign:
    """Load a model by "hf:OWNER/NAME" or folder, or an adapter that `medfm finetune` made of one.

    Its weights are read as they are; code that a repository brings along is never run. Raises WeightsError: it cannot
    be had, or transformers knows no such class.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, adapter = Path(name), None
    if not str(name).startswith("hf:") and not (folder / "config.json").exists():
        adapter = assets.adapter_folder(name)
        about = json.loads((adapter / "medfm.json").read_text())
        config = ForeignConfig(**{k: about[k] for k in ("language", "abstain", "prepare") if k in about})
    else:
        config = ForeignConfig(language=str(name) if str(name).startswith("hf:") else str(folder.resolve()))
    source = config.language.removeprefix("hf:")
    try:
        processor = AutoProcessor.from_pretrained(source)
        network: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(
            f"{source}: {str(error).splitlines()[0]} Expected a model that transformers' AutoModelForImageTextToText "
            "opens, from the Hugging Face hub or cache (hf:OWNER/NAME) or a folder"
        ) from error
    if adapter is not None:
        from peft import PeftModel

        with adapting():
            network = PeftModel.from_pretrained(network, str(adapter))
    shown = (adapter or Path(source)).name
    return Foreign(network.to(device), processor, config, name=shown)
