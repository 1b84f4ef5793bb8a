"""Federated averaging on Flower: the two halves that `flwr run apps/federated` starts, and `__main__.py` simulates.

The server never sees a site's weights: SecAgg+ (Bell et al., CCS 2020) adds them under masks that cancel in the sum.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is there: it reports its use otherwise
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
from flwr.client import Client, ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from medfm.config import load_recipe
from medfm.errors import ConfigError
from medfm.train.federated import Site

MOST_CASES = 1000.0  # of a site: its weights travel times cases / MOST_CASES ...
CLIP = 4.0  # ... and must then lie within this, as fixed-point numbers of
STEPS = 2**26  # so many steps; 2**32 / STEPS sites can be added up

Settings = dict[str, Any]
_LEFT = {  # what it means for the model
    "training": "the others went on without their cases",
    "settling": "the statistics of batch norm are those of the others' cases",
    "averaging": "the model in their output folder, if any, is of a round before: do not use it",
}


class _Client(NumPyClient):
    """What Flower asks of a site."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def get_parameters(self, config: Settings) -> list[np.ndarray]:
        return list(self.site.start())

    def fit(self, parameters: list[np.ndarray], config: Settings) -> tuple[list[np.ndarray], int, Settings]:
        number, rounds = config["number"], config["rounds"]
        if number > rounds:
            weights, cases, told = self.site.settle(parameters)
        else:
            weights, cases, told = self.site.fit(parameters, number=number, rounds=rounds)
        largest = max(float(np.abs(w).max()) for w in weights) * cases / MOST_CASES
        if largest > CLIP or cases > MOST_CASES:
            raise ConfigError(
                f"found {cases} cases and weights up to {largest * MOST_CASES / cases:.1f}; expected at most "
                f"{MOST_CASES:.0f} cases, and weights x cases / {MOST_CASES:.0f} up to {CLIP:.0f}. Train on fewer cases"
            )
        return list(weights), cases, told

    def evaluate(self, parameters: list[np.ndarray], config: Settings) -> tuple[float, int, Settings]:
        score, cases = self.site.finish(parameters, settled=config["settled"])
        return 1 - score, cases, {"score": score}


def client_app(find: Callable[[Context], tuple[dict[str, Any], Path]]) -> ClientApp:
    """find: the recipe, with this site's data, and the folder for its model, of a context."""

    def site(context: Context) -> Client:
        recipe, output = find(context)
        return _Client(Site(recipe, output=output)).to_client()

    return ClientApp(client_fn=site, mods=[secaggplus_mod])


def server_app(agree: Callable[[Context], tuple[int, int, Path]]) -> ServerApp:
    """agree: rounds, sites and the folder for the server's log, of a context."""
    app = ServerApp()

    @app.main()
    def _main(grid: Grid, context: Context) -> None:
        rounds, sites, output = agree(context)
        if sites < 3:
            raise ConfigError(
                f"found {sites} sites; expected 3 or more: of two, each could subtract itself from the sum"
            )
        output.mkdir(parents=True, exist_ok=True)

        def write(kind: str, replies: Sequence[tuple[int, Settings]]) -> Settings:
            if len(networks := {told["network"] for _, told in replies if "network" in told}) > 1:
                raise ConfigError(
                    f"the sites built {len(networks)} different networks; give all the same recipe and labels"
                )
            cases = sum(count for count, _ in replies)
            names = sorted({name for _, told in replies for name in told} - {"network"})
            means = {name: sum(count * told[name] for count, told in replies) / cases for name in names}
            line = {"after": kind, "sites": len(replies), "cases": cases, **{n: round(v, 4) for n, v in means.items()}}
            if failed := sites - len(replies):
                print(
                    f"after {kind}: {failed} of {sites} sites failed, as their logs say; {_LEFT[kind]}", file=sys.stderr
                )
            with (output / "rounds.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            return means

        strategy = FedAvg(
            min_fit_clients=sites, min_evaluate_clients=sites, min_available_clients=sites, accept_failures=True,
            on_fit_config_fn=lambda number: {"number": number, "rounds": rounds},
            on_evaluate_config_fn=lambda number: {"settled": number > rounds},
            fit_metrics_aggregation_fn=lambda replies: write(
                "training" if "loss" in replies[0][1] else "settling", replies
            ),
            evaluate_metrics_aggregation_fn=lambda replies: write("averaging", replies),
        )  # fmt: skip
        secure = SecAggPlusWorkflow(
            num_shares=1.0, reconstruction_threshold=0.6, max_weight=MOST_CASES, clipping_range=CLIP,
            quantization_range=STEPS,
        )  # fmt: skip
        legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds + 1), strategy=strategy)
        DefaultWorkflow(fit_workflow=secure)(grid, legacy)

    return app


def _deployed_site(context: Context) -> tuple[dict[str, Any], Path]:
    run, node = context.run_config, context.node_config
    changes = [*shlex.split(str(run["changes"])), f"data.train={node['data']}", f"train.epochs={run['passes']}"]
    return load_recipe(str(run["recipe"]), changes), Path(str(node["output"]))


client = client_app(_deployed_site)
server = server_app(
    lambda c: (int(c.run_config["rounds"]), int(c.run_config["sites"]), Path(str(c.run_config["output"])))
)
