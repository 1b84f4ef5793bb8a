"""Several processes under torchrun learn what one learns: the same recipe, the same curve, replicated or sharded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_recipes import adapter_recipe

from medfm.train.loop import train

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from torch.distributed.tensor import DTensor
from medfm.train import loop

class Watched(loop.Sharded):
    def collect(self):
        parameters = list(self.objective.parameters())
        assert all(isinstance(p, DTensor) for p in parameters)
        assert sum(p.to_local().numel() for p in parameters) < 0.6 * sum(p.numel() for p in parameters)
        print("sharded")
        return super().collect()

loop.Sharded = Watched
loop.train(json.loads(sys.argv[1]), output=Path(sys.argv[2]))
import torch.distributed as dist
assert dist.get_world_size() == int(sys.argv[3]) and dist.get_backend() == "gloo"
print("processes", dist.get_world_size())
dist.destroy_process_group()
"""


def curve(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "FSDP2"])
def test_two_processes_learn_what_one_learns(
    shard: bool, glance_folder: Path, phantom_rows: Path, tiny_language: Path, tmp_path: Path
) -> None:
    recipe = adapter_recipe(glance_folder, phantom_rows, tiny_language, epochs=4, rate=3e-3)
    recipe["objective"]["batch"] = 2  # type: ignore[index]  # four batches a pass: two steps of two
    alone = train({**recipe, "train": {**recipe["train"], "accumulate": 2}}, output=tmp_path / "alone")  # type: ignore[dict-item]
    recipe["train"] = {**recipe["train"], "shard": shard}  # type: ignore[dict-item]
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script),
        json.dumps(recipe), str(tmp_path / "two"), "2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("processes 2") == 2
    assert done.stdout.count("sharded") == (2 * 4 if shard else 0)
    assert curve(tmp_path / "two") == pytest.approx(curve(alone), rel=0.02)
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (alone, tmp_path / "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (two[name].float() - tensor.float()).abs().max() < 0.02, name
