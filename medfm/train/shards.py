"""An objective split over processes with PyTorch's FSDP2, where one process cannot hold it with its gradients."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from medfm.errors import ConfigError

__all__ = ["Sharded"]


class Sharded:
    """`torch.distributed.fsdp.fully_shard` on every block of the language model, and on all the rest as one.

    accelerate's own FSDP plugin is not used: on processes without GPUs it steps aside without a word, and what is
    tested there would be another thing than what runs. Evaluating and saving need the whole model: the first process
    keeps a copy of it, which gets the collected weights at the end of each pass.

    Raises ConfigError where only one process runs.
    """

    def __init__(self, objective: nn.Module, *, main: bool) -> None:
        from torch.distributed import get_world_size, is_initialized
        from torch.distributed.fsdp import fully_shard

        if not is_initialized() or get_world_size() < 2:
            raise ConfigError("train.shard: found one process; start several with `torchrun --nproc-per-node N`")
        self.objective = objective
        self.whole = _copy(objective) if main else None
        blocks = {name for part in objective.modules() for name in getattr(part, "_no_split_modules", None) or ()}
        for part in list(objective.modules()):
            if type(part).__name__ in blocks:
                fully_shard(part)
        fully_shard(objective)

    def collect(self) -> Any:
        """The whole objective on the first process, None on the others; all of them have to call this."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self.objective, options=options)
        if self.whole is not None:
            self.whole.load_state_dict(state)
        return self.whole


def _copy(objective: nn.Module) -> nn.Module:
    """Weights copied, data shared."""
    data = {name: value for name, value in vars(objective).items() if not name.startswith("_")}
    with torch.no_grad():
        return copy.deepcopy(objective, {id(value): value for value in data.values()})
