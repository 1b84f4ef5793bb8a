"""SyN of ANTs on a file of pairs, for comparison; measure it with `medfm evaluate register --transforms`.

Run with a Python that has antspyx, in an environment of its own:
python tasks/registration/syn.py pairs.jsonl --output syn
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import ants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for 0000.h5, ... and seconds.json")
    parser.add_argument("--kind", default="SyN", help="type_of_transform of ants.registration")
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    seconds: list[dict[str, float]] = []
    for number, line in enumerate(given.pairs.read_text().splitlines()[: given.limit]):
        row = json.loads(line)
        fixed, moving = (ants.image_read(str(given.pairs.parent / row[key])) for key in ("fixed", "moving"))
        start = time.perf_counter(), time.process_time()
        found = ants.registration(
            fixed, moving, type_of_transform=given.kind, write_composite_transform=True, random_seed=1
        )
        seconds.append({"seconds": time.perf_counter() - start[0], "cpu_seconds": time.process_time() - start[1]})
        shutil.move(found["fwdtransforms"], given.output / f"{number:04d}.h5")
        Path(found["invtransforms"]).unlink()
    (given.output / "seconds.json").write_text(json.dumps(seconds))
    print(f"{sum(s['cpu_seconds'] for s in seconds) / len(seconds):.2f} seconds of a core a pair")


if __name__ == "__main__":
    main()
