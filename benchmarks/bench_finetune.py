"""Fine-tuning beside a plain transformers Trainer with PEFT on the same batches: seconds a step, in one run.

    python benchmarks/bench_finetune.py DATA [--steps 12]

Both train the same LoRA and connector of the default adapter on the same cases and questions. The plain way runs the
frozen encoder on the pixels in every step, as a loop that knows nothing of it would; ours has looked beforehand.
The time of that look is in the table, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import fields
from typing import Any

import torch
from measure import show

from medfm.config import build
from medfm.data.questions import both_sides, stack_scans
from medfm.language.prompt import Packed


class Plain(torch.nn.Module):
    """The objective as a Trainer wants it: pixels in, loss out."""

    def __init__(self, objective: Any) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, x: torch.Tensor, spacing: torch.Tensor, **packed: torch.Tensor) -> dict[str, torch.Tensor]:
        model = self.objective.model
        with torch.no_grad():
            glimpse = model.vision.look(x, spacing)[2]
        tokens = model.vision.connector(glimpse.patches, glimpse.summary)
        laid = Packed(**packed)
        return {"loss": model.answer_loss(model.embed(laid, tokens), laid)[0]}


def plain_seconds(objective: Any, pixels: list[Any], batches: list[list[int]]) -> float:
    """Seconds a step of transformers.Trainer, the first one left out."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

    def collate(items: list[list[int]]) -> dict[str, torch.Tensor]:
        made = objective.collate(items[0])
        x, spacing = stack_scans([pixels[i] for i in items[0]])
        packed = {f.name: made[f.name] for f in fields(Packed)}
        return {"x": x, "spacing": spacing, **packed}

    clock = Clock()
    options = TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=len(batches), per_device_train_batch_size=1, learning_rate=3e-4,
        report_to=[], save_strategy="no", remove_unused_columns=False, disable_tqdm=True, use_cpu=True,
        logging_strategy="no", dataloader_num_workers=0,
    )  # fmt: skip
    Trainer(Plain(objective), options, train_dataset=batches, data_collator=collate, callbacks=[clock]).train()
    return (clock.at[-1] - clock.at[0]) / (len(clock.at) - 1)


def our_seconds(objective: Any, batches: list[list[int]]) -> float:
    """Seconds a step of the loop's own step."""
    optimizer = torch.optim.AdamW(objective.parameter_groups(3e-4))
    objective.train()
    at = []
    for batch in batches:
        loss = objective(objective.collate(batch))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        at.append(time.perf_counter())
    return (at[-1] - at[0]) / (len(at) - 1)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data")
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--views", type=int, default=4)
    options.add_argument("--limit", type=int, default=40, help="scans")
    chosen = options.parse_args()
    data = {"train": [chosen.data], "hold": 0.1, "limit": chosen.limit}
    start = time.perf_counter()
    objective = build(
        "objectives", {"name": "own", "adapter": "default", "views": chosen.views, "facts": 0.0}, data=data, seed=0
    )
    prepared = time.perf_counter() - start
    pixels, _ = both_sides(data, objective.model.preparation, seed=0)
    batches = [b for epoch in range(9) for b in _epoch(objective, epoch)][: chosen.steps]
    ours = our_seconds(objective, batches)
    plain = plain_seconds(objective, pixels, batches)
    again = our_seconds(objective, batches)  # the machine may be busier at one time than at another
    rows = [
        ("transformers.Trainer + PEFT, a step", plain, None),
        ("medfm finetune, a step", (ours + again) / 2, None),
    ]
    show(f"{chosen.steps} steps of 3 scans, mean", rows, against=0)
    print(f"reading {len(objective.cases)} scans and looking at them {chosen.views} times beforehand: {prepared:.0f} s")


def _epoch(objective: Any, epoch: int) -> list[list[int]]:
    objective.batches.epoch = epoch
    return list(objective.batches)


if __name__ == "__main__":
    main()
