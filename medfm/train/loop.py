"""The one training loop, on accelerate: any objective, any number of processes, resumable at every checkpoint."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from medfm import config
from medfm.data.batches import loader as batch_loader
from medfm.errors import ConfigError
from medfm.nn.half import halved
from medfm.stored import Stored, start_from
from medfm.train.checkpoint import Checkpoint
from medfm.train.shards import Sharded

__all__ = ["train"]

_TRAIN = {
    "epochs": 10, "rate": 3e-4, "decay": 0.05, "warmup": 0.05, "clip": 1.0, "accumulate": 1, "average": 0.0,
    "minutes": 5.0, "budget": 0.0, "patience": 0, "best": False, "shard": False, "half": False, "ahead": False,
    "start": "", "seed": 0,
}  # fmt: skip
_UNSOUND = 10  # steps


def train(
    recipe: dict[str, Any], *, output: Path, resume: bool = False, before: Callable[[Any], None] | None = None
) -> Path:
    """Train as `recipe` says and leave the result in `output`.

    The recipe has `objective` (a registered name and its arguments), `data`, and `train`: epochs, rate (AdamW, cosine
    after a warm-up share), decay, clip, accumulate, average (decay of the moving average of the weights that is saved,
    0 = none), minutes between checkpoints, budget (minutes after which the run ends in good order, its cosine fitted
    to them, if its epochs did not end it before; 0 = none), patience (epochs without a better score after which it
    ends; 0 = none), best (keep what was saved at the best score, not at the last), shard (split the model over the
    processes, see train/shards.py), half (convolutions and matrix products in bfloat16 where the machine computes in
    it; weights and their averages stay float32), ahead (the next batch is made by a process of its own while a step is
    computed: where that takes as long), start (a shipped model of the recipe's kind, or a folder that training left,
    from which to go on instead of from nothing), seed. `log.jsonl` gets one line an epoch; null is a figure that the
    epoch does not have, as the Dice of a class that was nowhere.

    Under `torchrun` or `accelerate launch` every process calls this; a step then sees that many batches, and the
    losses in the log are means over all of them. before: called on the first process with the objective as it is
    before its first step.

    Raises:
        ConfigError: an unknown key, `output` holds another run and `resume` was not asked for, or a start for a recipe
            whose own `objective.model.adapter` says where to go on from. AdapterMismatch: a start made of other parts.
    """
    options = {**_TRAIN, **recipe.get("train", {})}
    config.check_values("train", options, _TRAIN)
    for key, value in recipe["data"].items():
        if value == "" or (key == "train" and not value):
            given = ", ".join(f"data.{name}" for name in recipe["data"] if name != key)
            raise ConfigError(
                f"the recipe leaves data.{key} open; say where the data lie: data.{key}=PATH "
                f"(found {given or 'nothing else'})"
            )
    checkpoint = Checkpoint(output, recipe)
    if checkpoint.last() and not resume:
        raise ConfigError(f"{output} holds a run already; go on with it by --resume, or choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    set_seed(options["seed"])
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # tied weights are meant to be stored once
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=options["accumulate"])
    objective = config.build("objectives", recipe["objective"], data=recipe["data"], seed=options["seed"])
    if options["start"]:
        _start(objective, options["start"], told=accelerator.is_main_process)
    if before is not None and accelerator.is_main_process:
        before(objective)
    shards = _shards(objective, options, accelerator) if options["shard"] else None
    optimizer = torch.optim.AdamW(objective.parameter_groups(options["rate"]), weight_decay=options["decay"])
    loader = batch_loader(objective.batches, objective.collate, ahead=options["ahead"])
    steps = math.ceil(len(loader) / accelerator.num_processes / options["accumulate"]) * options["epochs"]
    progress = _Progress(budget=options["budget"] * 60)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _cosine(max(step, progress.share() * steps), steps, options["warmup"])
    )
    if shards is None:
        wrapped, optimizer, loader = accelerator.prepare(objective, optimizer, loader)
    else:
        wrapped = objective
        optimizer, loader = accelerator.prepare(optimizer, loader)
    average = _Average(objective, options["average"])
    accelerator.register_for_checkpointing(schedule, average)
    if resume:
        _go_on(accelerator, checkpoint, progress)
    run = _Run(
        accelerator, objective, wrapped, optimizer, schedule, loader, average, progress, options, checkpoint, shards
    )
    run.run()
    return output


@dataclass
class _Run:
    """What takes part in one training."""

    accelerator: Accelerator
    objective: Any
    wrapped: Any
    optimizer: Any
    schedule: Any
    loader: Any
    average: _Average
    progress: _Progress
    options: dict[str, Any]
    kept: Checkpoint
    shards: Sharded | None
    saved: float = field(default_factory=time.monotonic)
    unsound: int = 0

    def run(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console, told, progress = Console(stderr=True), time.monotonic(), self.progress
        with Progress(*columns, console=console, disable=not self.accelerator.is_main_process) as bar:
            task = bar.add_task("training", total=1.0)
            for epoch in range(progress.epoch, self.options["epochs"]):
                if self.over():
                    break
                self.objective.batches.epoch = epoch
                self.wrapped.train()
                skipped = self.accelerator.skip_first_batches(self.loader, progress.step)
                for batch in skipped if progress.step else self.loader:
                    self.step(batch)
                    line = f"{progress.line(epoch)}, {progress.step}/{len(self.loader)} steps"
                    bar.update(task, completed=self.done(), description=line)
                    if not console.is_terminal and time.monotonic() - told > 60:  # a log file gets a line a minute
                        told = time.monotonic()
                        left = timedelta(seconds=round(bar.tasks[0].time_remaining or 0))
                        console.print(f"{line}, {left} left")
                    spent, due = self.agreed(progress.share(), self.minutes())
                    if due > self.options["minutes"]:
                        self.checkpoint()
                    if spent >= 1:
                        break
                self.end_pass(epoch)

    def done(self) -> float:
        """Share of the run that is done: of its passes, or of its budget of minutes where that ends it before."""
        steps = self.progress.epoch * len(self.loader) + self.progress.step
        return min(1.0, max(steps / (len(self.loader) * self.options["epochs"]), self.progress.share()))

    def over(self) -> bool:
        """Whether the passes so far are all of them; a run that is resumed when it was complete takes no step more."""
        progress = self.progress
        if not progress.epoch or progress.step:
            return False
        return self.agreed(progress.share())[0] >= 1 or 0 < self.options["patience"] <= progress.since

    def step(self, batch: Any) -> None:
        with self.accelerator.accumulate(self.wrapped):
            with self.halved():
                parts = self.wrapped(batch)
            self.accelerator.backward(parts["loss"])
            if self.accelerator.sync_gradients:
                if self.sound(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.options["clip"])):
                    self.optimizer.step()
                    self.average.update(self.objective)
                self.schedule.step()
                self.optimizer.zero_grad()
        self.progress.add({name: float(value.detach()) for name, value in parts.items()})

    def sound(self, norm: torch.Tensor) -> bool:
        """Whether a gradient can be followed: one that is not finite spoils all weights. Ten in a row end the run."""
        self.unsound = 0 if math.isfinite(norm) else self.unsound + 1
        if self.unsound == _UNSOUND:
            raise ConfigError(
                f"the gradient was not finite in {_UNSOUND} steps in a row of epoch {self.progress.epoch + 1}; no "
                f"weight followed it. Lower train.rate (found {self.options['rate']:g}) or look for what is odd in the "
                "data, and start anew; --resume goes on from the last checkpoint"
            )
        return self.unsound == 0

    def halved(self) -> AbstractContextManager[None]:
        """bfloat16 where it is asked for and fast; accelerate's own has one precision for all runs of a process."""
        return halved(self.accelerator.device.type, wanted=self.options["half"])

    def minutes(self) -> float:
        """Since the last checkpoint."""
        return (time.monotonic() - self.saved) / 60

    def agreed(self, *values: float) -> list[float]:
        """The largest value of any process: their clocks differ, and one that stops alone leaves the others waiting."""
        if self.accelerator.num_processes == 1:
            return list(values)
        mine = torch.tensor(values, device=self.accelerator.device)
        return [max(column) for column in self.accelerator.gather(mine[None]).T.tolist()]

    def end_pass(self, epoch: int) -> None:
        """Evaluate, log, save where that is asked for, and leave a checkpoint."""
        progress = self.progress
        mine = torch.tensor([[*progress.sums.values()], [*progress.counts.values()]], device=self.accelerator.device)
        sums, counts = self.accelerator.reduce(mine, "sum")
        means = dict(zip(progress.sums, (sums / counts).tolist(), strict=True))
        entry: dict[str, float] = {"epoch": epoch + 1, **means}
        objective = self.objective if self.shards is None else self.shards.collect()
        progress.next_epoch()
        with self.average.swapped(self.objective):
            if objective is not None:
                objective.eval()
                entry |= objective.evaluate()
            better = progress.judge(entry.get("score", 0.0))
            if self.accelerator.is_main_process:
                with (self.kept.output / "log.jsonl").open("a") as log:
                    plain = {k: round(v, 4) if math.isfinite(v) else None for k, v in entry.items()}  # JSON has no NaN
                    log.write(json.dumps(plain) + "\n")
                if better or not self.options["best"]:
                    objective.save(self.kept.output)
        self.checkpoint()

    def checkpoint(self) -> None:
        """A sharded run has none: its weights are those of the last pass."""
        self.saved = time.monotonic()
        self.accelerator.wait_for_everyone()
        if self.shards is None:
            self.kept.save(self.accelerator, self.progress.state())


def _go_on(accelerator: Accelerator, checkpoint: Checkpoint, progress: _Progress) -> None:
    from rich.console import Console

    console = Console(stderr=True, quiet=not accelerator.is_main_process, soft_wrap=True, markup=False)
    if checkpoint.last() is None:
        console.print(f"{checkpoint.output} holds no checkpoint: the run begins at its start")
        return
    state, changed = checkpoint.load(accelerator)
    progress.go_on(state)
    console.print(f"goes on at epoch {progress.epoch + 1}, step {progress.step}")
    if changed:
        console.print(f"note: the run began with {', '.join(changed)}; rate and decay stay so, the rest is as said now")


def _start(objective: Any, name: str, *, told: bool) -> None:
    from rich.console import Console

    network = getattr(objective, "network", None)
    if not isinstance(network, Stored):
        raise ConfigError("train.start: for heads of a task; here objective.model.adapter or .vision says the start")
    if (other := start_from(network, name)) and told:
        Console(stderr=True).print(f"train.start: begun anew, for their shape is another: {', '.join(other)}")


def _shards(objective: Any, options: dict[str, Any], accelerator: Accelerator) -> Sharded:
    if options["average"] or options["patience"]:
        raise ConfigError("train.shard: set train.average=0 and train.patience=0; a sharded run has neither")
    return Sharded(objective, main=accelerator.is_main_process)


def _cosine(step: float, steps: int, warmup: float) -> float:
    first = max(1, round(steps * warmup))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - first) / max(1, steps - first)))) + 1e-3


class _Average:
    """Moving average of the trained weights; evaluated and saved in their place."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.weights = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad} if decay else {}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, self.count / (self.count + 10))
        for name, parameter in module.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - decay)

    def swapped(self, module: torch.nn.Module) -> _Swap:
        return _Swap(module, self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.weights = state["count"], state["weights"]


class _Swap:
    def __init__(self, module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
        self.pairs: list[tuple[Any, Any, Any]] = [
            (p.data, weights[n], p) for n, p in module.named_parameters() if n in weights
        ]

    def __enter__(self) -> None:
        for _, averaged, parameter in self.pairs:
            parameter.data = averaged

    def __exit__(self, *_: object) -> None:
        for own, _, parameter in self.pairs:
            parameter.data = own


class _Progress:
    """Where a run stands: epoch, step, the sums of this epoch's losses, and the seconds it took so far.

    A value that a batch does not have, as the Dice of one without a class, is NaN and in no mean; a loss that is NaN
    is.
    """

    def __init__(self, *, budget: float) -> None:
        self.epoch, self.step = 0, 0
        self.budget, self.start, self.spent = budget, time.monotonic(), 0.0
        self.best, self.since = -math.inf, 0  # scores may be negative
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def share(self) -> float:
        """How much of the budget of seconds is spent, 1 for all; 0 where there is none."""
        return (self.spent + time.monotonic() - self.start) / self.budget if self.budget else 0.0

    def add(self, values: dict[str, float]) -> None:
        self.step += 1
        for name, value in values.items():
            there = name == "loss" or not math.isnan(value)
            self.sums[name] = self.sums.get(name, 0.0) + (value if there else 0.0)
            self.counts[name] = self.counts.get(name, 0) + there

    def means(self) -> dict[str, float]:
        return {name: value / self.counts[name] if self.counts[name] else math.nan for name, value in self.sums.items()}

    def line(self, epoch: int) -> str:
        return f"epoch {epoch + 1} " + " ".join(f"{n} {v:.3f}" for n, v in self.means().items())

    def next_epoch(self) -> None:
        self.epoch, self.step, self.sums, self.counts = self.epoch + 1, 0, {}, {}

    def judge(self, score: float) -> bool:
        """Whether `score` is the best so far; `since` counts the epochs after the best."""
        better = score > self.best
        self.best, self.since = max(self.best, score), 0 if better else self.since + 1
        return better

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        kept = ("epoch", "step", "sums", "counts", "best", "since")
        return {name: getattr(self, name) for name in kept} | {"spent": self.spent + time.monotonic() - self.start}

    def go_on(self, saved: dict[str, Any]) -> None:
        counts = dict.fromkeys(saved["sums"], saved["step"])  # of a run that began before they were kept
        vars(self).update({"counts": counts, **saved})
