"""Fine-tunes somebody else's vision-language model with LoRA on a user's own cases, loss on the answers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.questions import both_sides
from medfm.language.foreign import load_foreign
from medfm.language.quiet import adapting
from medfm.metrics import exact_match
from medfm.objectives.groups import at_one_rate

__all__ = ["TunesForeign"]


class TunesForeign(nn.Module):
    """LoRA on the language layers of any `AutoModelForImageTextToText`; its eye stays as it is.

    One question a step, since such models disagree about how batches of several pictures are laid out; accumulate
    instead. A scan is kept as prepared pictures.

    Args:
        model: "hf:OWNER/NAME", a folder, or an adapter to go on from. data: see `both_sides`.
        lora: arguments of PEFT's LoraConfig. checked: held-out questions asked after each pass.
        checkpointing: compute activations twice instead of keeping them.
    """

    def __init__(
        self, *, model: str, data: dict[str, Any], lora: dict[str, Any] | None = None, checked: int = 48,
        checkpointing: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        from peft import LoraConfig, PeftModel, get_peft_model

        super().__init__()
        self.model = load_foreign(model)
        network = self.model.network.requires_grad_(False)
        if isinstance(network, PeftModel):
            for name, parameter in network.named_parameters():
                parameter.requires_grad_("lora_" in name)
        else:
            # by name, so that the eye of the model, whose layers are often called alike, is left out
            options = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": _language_layers(network)}
            with adapting():
                network = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", **{**options, **(lora or {})}))
        if checkpointing:
            network.enable_input_require_grads()
            network.gradient_checkpointing_enable({"use_reentrant": False})
        self.network = self.model.network = network
        self.cases, self.held = both_sides(data, self.model.preparation, seed=seed)
        self.asked = [(case, number) for case in self.cases for number in range(len(case.questions))]
        self.batches = Batches([0] * len(self.asked), 1, seed=seed)
        self.checked = checked

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """What the network takes for one question, with `labels` -100 on all but the answer."""
        ((case, number),) = [self.asked[index] for index in indices]
        return dict(self.model.labelled(case.prepared, case.questions[number], case.answers[number]))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": self.network(**batch).loss}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Exact match of greedy answers on some held-out questions, evenly spread."""
        asked = [(case, number) for case in self.held for number in range(len(case.questions))]
        right = []
        for case, number in asked[:: max(1, len(asked) // self.checked)]:
            ((said, _),) = self.model.finish(self.model.reading(case.prepared), [case.questions[number]], limit=24)
            right.append(exact_match(said, case.answers[number]))
        return {"score": sum(right) / max(len(right), 1)}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        return at_one_rate(self, rate)

    def save(self, folder: Path) -> None:
        """A plain PEFT adapter and `medfm.json`, see `Foreign.save`."""
        self.model.save(folder)


def _language_layers(network: nn.Module) -> list[str]:
    """Names of the linear layers inside decoder blocks of the language model."""
    eyes = ("vision", "visual", "image", "projector", "connector")
    return [
        name for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and "layers." in name and not any(eye in name for eye in eyes)
    ]  # fmt: skip
