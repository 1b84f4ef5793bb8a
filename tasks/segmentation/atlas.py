"""Turn a network that knows where structures are into one that also fits an atlas to each scan.

    medfm train segmentation/brain-coarse 'data.train=[subject_01.nii.gz, ...]' ... --output runs/coarse
    python tasks/segmentation/atlas.py runs/coarse subject_01.nii.gz ... --output runs/brain
    medfm segment scan.nii.gz --task runs/brain --output mask.nii.gz

The atlas is the mean of the label maps and their mirror images, brought onto each other by the affine maps between the
middles of their structures. It holds the head's other labels too, as parts of the background that have places.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from medfm.data.brain import Head, value_names
from medfm.segmenter import Segmenter, load_segmenter

# what looks alike in an image, left and right in one
TISSUES = (
    ("cerebral white matter", "cerebellar white matter"),
    ("cerebral cortex", "cerebellar cortex", "hippocampus", "amygdala", "accumbens", "caudate", "putamen"),
    ("cerebrospinal fluid", "third ventricle", "fourth ventricle", "lateral ventricle"),
    ("brain stem", "ventral diencephalon"),
    ("thalamus",),
    ("pallidum",),
)
SHAPE, SPACING, FINE, LEAST = (52, 62, 50), 3.0, 1.5, 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a model that `medfm train segmentation/brain` left")
    parser.add_argument("maps", nargs="+", type=Path, help="the label maps that it was trained on")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    network = load_segmenter(given.network)
    names = network.labels
    numbers, people = {v: names.index(n) + 1 for v, n in value_names().items()}, []
    for path in sorted(given.maps):
        people += [numbered(Head.read(path), numbers, mirrored) for mirrored in (False, True)]
    extra = max(int(labels.max()) for labels, _ in people) - len(names)
    middles = torch.stack([centres(labels, spacing, len(names)) for labels, spacing in people])
    mean = middles - middles.mean(1, keepdim=True)
    reference = mean.mean(0)
    for _ in range(3):
        moved = torch.stack([whole(m) @ affine(m, reference) for m in middles]).mean(0)
        moved -= moved.mean(0)
        reference = moved * (mean.norm(dim=2).mean() / moved.norm(dim=1).mean())
    chances = torch.zeros(1 + len(names) + extra, *SHAPE)
    reference = reference - middle_of_brains(people, middles, reference)
    lines = [(torch.arange(n) - (n - 1) / 2) * SPACING for n in SHAPE]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).view(-1, 3).double()
    for (labels, spacing), own in zip(people, middles, strict=True):
        back = affine(reference, own)
        for corner in torch.cartesian_prod(*[torch.tensor([-0.25, 0.25])] * 3):
            index = (whole(place + corner * SPACING) @ back / spacing).round().long()
            inside = ((index >= 0) & (index < torch.tensor(labels.shape))).all(1)
            d, h, w = index.where(inside[:, None], 0).T
            found = labels[d, h, w].long().where(inside, 0)
            chances.view(len(chances), -1).scatter_add_(0, found[None], torch.ones(1, len(found)))
    chances /= chances.sum(0)
    kept = [i for i in range(len(chances)) if 0 < i <= len(names) or (i and float(chances[i].mean()) > LEAST)]
    sided = [[n for n in names if n.removeprefix("left ").removeprefix("right ") in group] for group in TISSUES]
    settings = {**network.settings, "prepare": {**network.settings["prepare"], "spacing": [FINE] * 3}}
    sees = network.preparation.spacing[0]
    settings["patch"] = [round(n * sees / FINE) for n in network.patch]
    settings["atlas"] = {
        "shape": list(SHAPE), "spacing": SPACING, "sees": sees, "tissues": sided,
        "around": len(kept) - len(names),
    }  # fmt: skip
    fitted = Segmenter(**settings)
    fitted.load_state_dict(network.state_dict(), strict=False)
    fitted.get_buffer("chances").copy_((chances[kept] * 255).round())
    fitted.get_buffer("centres").copy_(reference)
    fitted.save(given.output)
    print(
        json.dumps({"people": len(given.maps), "labels": len(names), "other parts of the head": len(kept) - len(names)})
    )


def numbered(head: Head, numbers: dict[int, int], mirrored: bool) -> tuple[Tensor, Tensor]:
    """Label map (D, H, W) of the network's numbers, what else there is after them; spacing (3,) mm."""
    mine = torch.tensor([numbers.get(v, 0) for v in head.targets().tolist()], dtype=torch.uint8)
    for index, value in enumerate(head.values.tolist()):
        if value and not mine[index] and value >= 100:
            mine[index] = len(numbers) + 1 + OTHERS.setdefault(value, len(OTHERS))
    labels = mine[head.labels.long()]
    if mirrored:
        names = {n: i + 1 for i, n in enumerate(value_names().values())}
        swap = torch.arange(256, dtype=torch.uint8)
        for name, number in names.items():
            side = name.split()[0]
            other = {"left": "right", "right": "left"}.get(side)
            swap[number] = names[name.replace(side, other, 1)] if other else number
        labels = swap[labels.long()].flip(2)
    return labels, torch.tensor(head.spacing, dtype=torch.float64)


OTHERS: dict[int, int] = {}


def centres(labels: Tensor, spacing: Tensor, count: int) -> Tensor:
    """(count, 3) mm, the middle of each label."""
    flat, found = labels.flatten().long(), []
    size = torch.bincount(flat, minlength=256)[1 : count + 1].clamp(min=1)
    for axis, n in enumerate(labels.shape):
        shape = [-1 if other == axis else 1 for other in range(3)]
        line = torch.arange(n, dtype=torch.float64).view(shape).expand(labels.shape).flatten()
        found.append(torch.bincount(flat, weights=line, minlength=256)[1 : count + 1] / size * spacing[axis])
    return torch.stack(found, 1)


def middle_of_brains(people: list[tuple[Tensor, Tensor]], middles: Tensor, reference: Tensor) -> Tensor:
    """(3,) mm, of the boxes around all brains once they lie on each other."""
    sides = []
    for (labels, spacing), own in zip(people, middles, strict=True):
        brain = ((labels > 1) & (labels <= len(own))).nonzero()
        box = torch.stack([brain.amin(0), brain.amax(0)]) * spacing
        sides.append(whole(box) @ affine(own, reference))
    return torch.stack(sides).mean((0, 1))


def affine(start: Tensor, end: Tensor) -> Tensor:
    """(4, 3) of least squares between points (N, 3)."""
    return torch.linalg.lstsq(whole(start), end).solution


def whole(points: Tensor) -> Tensor:
    return torch.cat([points, points.new_ones(len(points), 1)], 1)


if __name__ == "__main__":
    main()
