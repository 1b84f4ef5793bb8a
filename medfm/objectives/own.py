"""Fine-tunes a trained adapter on a user's own cases: small, cached, and without believing its own guesses."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm import assets
from medfm.data.questions import Case, both_sides, fold_of
from medfm.data.views import look_at_one, stack_looks
from medfm.metrics import normalise_answer
from medfm.model import save_adapter
from medfm.objectives.choosing import known_answers
from medfm.objectives.instruct import Instruct
from medfm.vision import Glimpse

__all__ = ["Own"]


class Own(Instruct):
    """`Instruct` from a trained adapter, with three differences.

    The frozen eye looks at each scan as it is read, and only what it saw is kept: the pixels of a stream larger than
    the memory, or the disk, are not. The panel of second looks learns the new answers (its last layers, in seconds),
    each member without its own fold of the cases. And what is trained stays small: LoRA, those last layers, the
    loudness of the connector.

    Args:
        adapter: name or folder of the adapter to go on from.
        data, batch, questions, views, facts, hints, checked: see `Instruct`.
        checkpointing: compute activations twice instead of keeping them: less memory, a third more time.
    """

    def __init__(
        self, *, adapter: str, data: dict[str, Any], batch: int = 3, questions: int = 12, views: int = 4,
        facts: float = 0.25, hints: float = 0.9, checked: int = 48, checkpointing: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        self.parent = assets.adapter_folder(adapter)
        about = json.loads((self.parent / "medfm.json").read_text())
        model = {
            "adapter": str(self.parent), "language": about["language"], "encoder": about["vision"]["encoder"],
            "prompt": about["prompt"], "lora": {},
        }  # fmt: skip
        super().__init__(
            model=model, data=data, batch=batch, questions=questions, views=views, facts=facts, hints=hints,
            checked=checked, seed=seed,
        )  # fmt: skip
        self.model.config.abstain = about.get("abstain", 0.0)
        for part in (self.model.vision.connector.patch, self.model.vision.connector.note):
            part.requires_grad_(False)
        if checkpointing:
            self.model.language.enable_input_require_grads()
            self.model.language.gradient_checkpointing_enable({"use_reentrant": False})

    def _read(
        self, data: dict[str, Any], *, views: int, seed: int
    ) -> tuple[list[Case], list[Case], list[list[Glimpse]]]:
        count = 0

        def look(case: Case) -> None:
            nonlocal count
            case.views = look_at_one(self.model.vision, case, count, views=views)
            case.prepared = replace(case.prepared, x=case.prepared.x.to("meta"))  # a shape without numbers
            count += 1

        cases, held = both_sides(data, self.model.preparation, seed=seed, look=look)
        return cases, held, [[case.views[view] for case in cases] for view in range(views)]

    def _proposals(self) -> list[list[list[str]]]:
        panel = self.model.vision.glance
        if panel is None:
            return super()._proposals()
        self._learn_answers()
        known = {normalise_answer(a): i for i, a in enumerate(self.model.vision.answers)}
        truths = [torch.tensor([known.get(normalise_answer(a), -1) for a in c.answers]) for c in self.cases]
        for fold, member in enumerate(panel.members):
            chosen = [n for n, c in enumerate(self.cases) if fold_of(c, len(panel.members)) != fold]
            if chosen:
                inputs = [self._gist(member, self.cases[n], view[n]) for view in self.views for n in chosen]
                targets = torch.cat([truths[n] for _ in self.views for n in chosen])
                member.choose = _fit(member.choose, torch.cat(inputs), targets)
        panel.requires_grad_(False)
        unseen = [fold_of(case, len(panel.members)) for case in self.cases]
        return [[self._propose(c, v[n], only=unseen[n]) for n, c in enumerate(self.cases)] for v in self.views]

    def _learn_answers(self) -> None:
        """Add the answers of these cases to the known ones; those known already keep what was learned of them."""
        vision = self.model.vision
        known = {normalise_answer(a) for a in vision.answers}
        new = [a for a in known_answers(self.cases) if normalise_answer(a) not in known]
        if not new or vision.glance is None:
            return
        vision.know([*vision.answers, *new])
        self.model.config.vision["answers"] = vision.answers

    @torch.no_grad()
    def _gist(self, member: Any, case: Case, look: Glimpse) -> Tensor:
        """What the last layers of a member of the panel get of each question of a case (N, 2 inner)."""
        memory = member.remember(stack_looks([look]).plain)
        asked = self.model.prompt.padded(self.model.tokenizer, case.questions)
        words = self.model.get_input_embeddings()(asked.clamp(min=0)).float()
        gist: Tensor = member.gist(words, asked >= 0, memory, asked.new_zeros(len(asked)))
        return gist

    @torch.no_grad()
    def _respond(self, case: Case) -> list[tuple[str, float]]:
        """From what the eye saw when the case was read."""
        patches, summary, plain = (part.to(self.model.device) for part in stack_looks([case.views[0]]))
        vision = self.model.vision
        memory = vision.glance.remember(plain) if vision.glance else None
        empty = patches.new_zeros(1, 0, 1, 1, 1)  # maps are for evidence, which is not asked for here
        reading = self.model.take_in(case.prepared, empty, vision.connector(patches, summary), memory)
        return self.model.finish(reading, case.questions, limit=24)

    def save(self, folder: Any) -> None:
        save_adapter(self.model, folder, parent=self.parent)


def _fit(start: nn.Sequential, inputs: Tensor, targets: Tensor, *, steps: int = 300, batch: int = 256) -> nn.Sequential:
    """`start` as it is after learning targets (N,), -1 = unknown, from inputs (N, F); in evaluation mode."""
    head = copy.deepcopy(start).requires_grad_(True).train()
    known = targets >= 0
    inputs, targets = inputs[known].clone(), targets[known]
    if not len(targets):
        return head.eval()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the dropout: a run that goes on has to find the same proposals
        for _ in range(steps):
            rows = torch.randint(len(targets), (min(batch, len(targets)),), generator=generator)
            loss = F.cross_entropy(head(inputs[rows]), targets[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head.eval()
