"""Federated training tried on one machine: every folder of DATA is a site.

python apps/federated segmentation/cine-lv SITE_A SITE_B SITE_C --rounds 10 --output DIR [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])

from federated_app import client_app, server_app
from flwr.simulation import run_simulation

from medfm.config import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("data", nargs="+", help="Data of one site each; KEY=VALUE changes the recipe.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--passes", type=int, default=1, help="Over a site's cases, each round.")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_intermixed_args()
    sites = [Path(item).resolve() for item in given.data if "=" not in item]
    changes = [item for item in given.data if "=" in item]
    output = given.output.resolve()
    recipes = [
        load_recipe(given.recipe, [*changes, f"data.train={site}", f"train.epochs={given.passes}"]) for site in sites
    ]

    def find(context):  # type: ignore[no-untyped-def]
        number = int(context.node_config["partition-id"])
        return recipes[number], output / sites[number].name

    run_simulation(
        server_app=server_app(lambda _: (given.rounds, len(sites), output)), client_app=client_app(find),
        num_supernodes=len(sites), backend_config={"client_resources": {"num_cpus": 1}},
    )  # fmt: skip
    print((output / "rounds.jsonl").read_text(), file=sys.stderr)


if __name__ == "__main__":
    main()
