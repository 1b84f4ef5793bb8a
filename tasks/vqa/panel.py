"""Give an adapter the panel of second looks that a run of `pretraining/glance` left, and leave the rest as it is.

    python tasks/vqa/panel.py runs/glance adapters/default

The run has to have looked through the adapter's own eye (`objective.model.adapter=default`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from medfm.assets import write_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("adapter", type=Path)
    options = parser.parse_args()
    file = options.adapter / "vision.safetensors"
    old, new = load_file(file), load_file(options.run / "vision.safetensors")
    kept = {name: tensor for name, tensor in old.items() if not name.startswith("glance.")}
    if other := [n for n, t in kept.items() if n not in new or not torch.equal(t, new[n])]:
        parser.error(f"{options.run} looked through another eye than that of {options.adapter}: {other[0]} differs")
    write_tensors(kept | {name: tensor for name, tensor in new.items() if name.startswith("glance.")}, file)
    about, learned = (json.loads(f.read_text()) for f in (options.adapter / "medfm.json", options.run / "vision.json"))
    about["vision"] |= {"answers": learned["answers"], "looks": learned["looks"]}
    (options.adapter / "medfm.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
