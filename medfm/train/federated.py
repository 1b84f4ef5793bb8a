"""One site's part of federated averaging: passes of the one loop that begin with the weights all sites agreed on."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from medfm import config
from medfm.errors import AdapterMismatch, ConfigError
from medfm.stored import Stored, start_from
from medfm.train.loop import train

__all__ = ["Site"]

Weights = list[NDArray[np.float32]]


class Site:
    """A hospital that trains with others and keeps its scans (FedAvg; McMahan et al., AISTATS 2017).

    What leaves it are the floating-point tensors of the network, how many cases it has, a loss and a score. Who adds
    them up, and how they are hidden from that one, is the transport's concern (apps/federated, on Flower).

    The mean of networks is another network than any of them, and the mean of their batch norms' statistics is not what
    it sees: after a first round it may find nothing at all. So the last round of averaging is of statistics that every
    site takes of the finished weights (`settle`), as stochastic weight averaging does (Izmailov et al., UAI 2018).

    Args:
        recipe: of segmentation, detection or classification, as for `medfm.train`; its `data` is this site's,
            `train.epochs` the passes of a round.
        output: folder where `finish` leaves the model of all sites.
    """

    def __init__(self, recipe: dict[str, Any], *, output: Path) -> None:
        self.recipe, self.output = recipe, output

    def start(self) -> Weights:
        """The weights of an untrained network, or of the recipe's `train.start`: every site can give the first ones."""
        return _weights(self._objective().network)

    def fit(self, weights: Weights, *, number: int, rounds: int) -> tuple[Weights, int, dict[str, Any]]:
        """Train from `weights` in round `number` of `rounds`, counted from 1.

        Returns the new weights, the number of cases they count by, and `loss`, `score` on the site's held-out patients,
        and `network`, a hash of what was built, which must be that of all other sites.

        Raises AdapterMismatch: the weights are of another network.
        """
        options = {"rate": 3e-4, **self.recipe["train"], "seed": number, "start": "", "budget": 0}
        options["rate"] *= 0.5 * (1 + math.cos(math.pi * (number - 1) / rounds))
        begun: list[tuple[Any, str]] = []

        def begin(objective: Any) -> None:
            _load(objective.network, weights)
            begun.append((objective, _signature(objective.network)))  # training adds what only this site knows

        with tempfile.TemporaryDirectory() as folder:
            train({**self.recipe, "train": options}, output=Path(folder), before=begin)
            entry = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])
        ((objective, signature),) = begun
        figures = {name: math.nan if entry[name] is None else entry[name] for name in ("loss", "score")}
        told = {**figures, "network": signature}
        return _weights(objective.network), len(objective.cases), told

    def settle(self, weights: Weights) -> tuple[Weights, int, dict[str, Any]]:
        """After the last round: the same weights with batch norm's statistics of this site's cases, as `fit` returns.

        Raises AdapterMismatch as `fit` does.
        """
        objective = self._objective()
        _load(objective.network, weights)
        _settle(objective)
        return _weights(objective.network), len(objective.cases), {"network": _signature(objective.network)}

    def finish(self, weights: Weights, *, settled: bool = True) -> tuple[float, int]:
        """Leave the model of all sites in `output`; its score on held-out cases of this one, and how many it has.

        settled: the statistics of batch norm are those of all sites, see `settle`; else, between the rounds, it gets
        this site's.
        """
        objective = self._objective()
        _load(objective.network, weights)
        if not settled:
            _settle(objective)
        objective.eval()
        score = float(objective.evaluate()["score"])
        objective.save(self.output)
        return score, len(objective.cases)

    def _objective(self) -> Any:
        options = self.recipe["train"]
        torch.manual_seed(options.get("seed", 0))
        objective = config.build(
            "objectives", self.recipe["objective"], data=self.recipe["data"], seed=options.get("seed", 0)
        )
        if not hasattr(objective, "cases") or not isinstance(getattr(objective, "network", None), Stored):
            raise ConfigError(
                f"found the objective {self.recipe['objective']['name']!r}; sites can train segmentation, detection "
                "and classification together"
            )
        if options.get("start"):
            start_from(objective.network, options["start"])
        return objective


@torch.no_grad()
def _settle(objective: Any) -> None:
    """Batch norm's means and variances anew, over a pass of the site's cases; those that come with a shared encoder
    stay."""
    sent = _sent(objective.network)
    norms = [
        (module, module.momentum)
        for name, module in objective.network.named_modules()
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" in sent
    ]
    objective.eval()  # but for these
    for module, _ in norms:
        module.reset_running_stats()
        module.momentum = None  # the plain mean of all batches
        module.train()
    for indices in objective.batches if norms else ():
        objective(objective.collate(indices))
    for module, momentum in norms:
        module.momentum = momentum
        module.eval()


def _sent(network: Stored) -> dict[str, Tensor]:
    """What of a network's state travels."""
    return {name: tensor for name, tensor in network.own_tensors().items() if tensor.is_floating_point()}


def _weights(network: Stored) -> Weights:
    return [tensor.detach().float().numpy().copy() for tensor in _sent(network).values()]


def _load(network: Stored, weights: Weights) -> None:
    state = _sent(network)
    found, expected = [w.shape for w in weights], [tuple(t.shape) for t in state.values()]
    if found != expected:
        raise AdapterMismatch(
            f"the weights of this round are those of another network ({len(found)} tensors, {len(expected)} expected, "
            "or of other shapes); every site must train the same recipe with the same labels"
        )
    given = {name: torch.from_numpy(w) for name, w in zip(state, weights, strict=True)}
    network.load_state_dict(given, strict=False)


def _signature(network: Stored) -> str:
    """Of what the network is and what its outputs mean: two sites with other labels must not be averaged."""
    about = {key: value for key, value in network.settings.items() if key != "about"}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
