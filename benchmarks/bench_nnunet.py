"""A recipe beside nnunetv2: the same patients, the same minutes of training on the same cores, the same held-out scans.

    python benchmarks/bench_nnunet.py DATA --peer VENV/bin/python --minutes 8 --output DIR

nnunetv2 (pip install nnunetv2, in an environment of its own) plans, trains and predicts as it does by itself, except
that its rate falls over the minutes given, not over 1,000 epochs. Planning and preprocessing are not counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

from medfm.data.patients import split_patients
from medfm.data.volumes import LabelledScans, find_pairs
from medfm.evaluate.markdown import interval, metrics, print_table
from medfm.evaluate.segment import compare_masks


def main() -> None:
    """Train both, then print Dice, Hausdorff distance and seconds a scan of both."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("--peer", type=Path, required=True, help="the python of nnunetv2's environment")
    options.add_argument("--recipe", default="segmentation/hippocampus")
    options.add_argument("--minutes", type=float, default=8)
    options.add_argument("--batch", type=int, default=0, help="of nnunetv2, instead of what it plans for a big card")
    options.add_argument("--output", type=Path, required=True)
    given = options.parse_args()
    data = find_pairs(given.data)
    train, held = split_patients(data.pairs, hold=0.15, seed=0)
    peer, ours = given.output / "nnunet", given.output / "medfm"
    raw_folder(peer / "raw" / "Dataset500_medfm", LabelledScans(data.name, train, data.labels))
    copies(peer / "raw" / "Dataset500_medfm" / "imagesTs", {f"{p.name}_0000.nii.gz": p.image for p in held})
    copies(peer / "truth", {f"{p.name}.nii.gz": p.label for p in held})
    minutes = str(given.minutes)
    script = Path(__file__).with_name("nnunet_peer.py")
    subprocess.run([given.peer, script, peer, minutes, str(given.batch)], check=True)
    split = [f"data.train={given.data}", "data.hold=0.15", "data.split=0"]
    medfm = shutil.which("medfm") or "medfm"
    subprocess.run([medfm, "train", given.recipe, *split, f"train.budget={minutes}", "--output", ours], check=True)
    figures = given.output / "figures"
    subprocess.run(
        [medfm, "evaluate", "segment", given.data, "--model", ours, "--held-out", "--output", figures / "medfm"],
        check=True,
    )
    compare_masks(peer / "found", peer / "truth", output=figures / "nnunetv2", labels=data.labels)
    report(figures, json.loads((peer / "peer.json").read_text()))


def raw_folder(folder: Path, data: LabelledScans) -> None:
    """nnU-Net's layout of `data`."""
    copies(folder / "imagesTr", {f"{p.name}_0000.nii.gz": p.image for p in data.pairs})
    copies(folder / "labelsTr", {f"{p.name}.nii.gz": p.label for p in data.pairs})
    labels = {"background": 0, **{name: value for value, name in data.labels.items()}}
    about = {"channel_names": {"0": data.channel or "MRI"}, "labels": labels}
    (folder / "dataset.json").write_text(
        json.dumps({**about, "numTraining": len(data.pairs), "file_ending": ".nii.gz"})
    )


def copies(folder: Path, files: dict[str, Path]) -> None:
    """Links in `folder` to `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(file.resolve())


def report(figures: Path, peer: dict) -> None:
    """The table."""
    rows = []
    for name in ("medfm", "nnunetv2"):
        m = metrics(figures / name)
        seconds = peer["seconds"]["mirrored"] if name == "nnunetv2" else m["model"]["seconds_per_scan"]
        rows.append([name, interval(m["overall"]), f"{m['hd95']['value']:.2f}", f"{seconds:.3f}"])
    print_table(("", "Dice", "HD95, mm", "s a scan"), rows)
    print(
        f"nnunetv2: {peer['steps']} steps of {peer['batch']} (planned {peer['planned batch']}), "
        f"{peer['seconds']['plain']:.3f} s a scan without its mirrored looks"
    )


if __name__ == "__main__":
    main()
