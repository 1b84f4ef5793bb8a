"""torchvision's RetinaNet beside a run of ours: as many minutes of training, the same pictures, split and changes.

    medfm train detection/cells data.train=BCCD train.budget=4 --output runs/cells
    python tasks/detection/retinanet.py cells runs/cells data.train=BCCD --output runs/retinanet

Prints and writes AP at IoU 0.5 of both on the held-out pictures, with intervals by picture, and their ratio; --least
counts only classes with so many boxes in all, as `medfm evaluate detect` does. --backbone
lite2: EfficientNet-Lite2 as ImageNet taught it, where the shared encoder began, below torchvision's pyramid and towers
of the recipe's width. resnet50: torchvision's own network, from random weights, for its ImageNet ones are on no package
registry.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from medfm import assets, config
from medfm.detector import load_detector
from medfm.encoders.hybrid import HybridEncoder
from medfm.evaluate.detect import Found, box_figures
from medfm.grid import Grid


class Lite2(nn.Module):
    """Levels of strides 8 to 64 of pictures (B, 3, H, W), which are shifted and scaled by the encoder itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = HybridEncoder(levels=4)
        self.body.load_imagenet(load_file(assets.base_weights("efficientnet-lite2") / "model.safetensors"))
        self.fuse = FeaturePyramidNetwork(list(self.body.channels[2:]), width, LastLevelP6P7(width, width))
        self.out_channels = width

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = self.body(x[:, :, None])[2:]
        fused: dict[str, Tensor] = self.fuse({str(k): level[:, :, 0] for k, level in enumerate(levels)})
        return fused


def retinanet(backbone: str, *, classes: int, patch: Sequence[int], width: int) -> RetinaNet:
    """For pictures of exactly `patch` (1, H, W), so that torchvision's own resizing changes nothing."""
    size = {"min_size": min(patch[1:]), "max_size": max(patch[1:]), "score_thresh": 0.02}  # as in ours: AP has a tail
    if backbone == "resnet50":
        return retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes, **size)
    sizes = tuple(tuple(round(base * 2 ** (k / 3)) for k in range(3)) for base in (16, 32, 64, 128))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))  # half of the defaults: the pictures are small
    return RetinaNet(Lite2(width), classes, anchor_generator=anchors, image_mean=[0.0] * 3, image_std=[1.0] * 3, **size)


def trained(net: RetinaNet, objective: Any, *, options: dict[str, Any], minutes: float) -> tuple[RetinaNet, int]:
    """The moving average of the weights after so many minutes, and the steps: AdamW and one cosine, as in our loop."""
    body = list(net.backbone.body.parameters()) if isinstance(net.backbone, Lite2) else []
    ids = {id(p) for p in body}
    rest = [p for p in net.parameters() if id(p) not in ids and p.requires_grad]
    groups = [{"params": g, "lr": r} for g, r in ((body, options["rate"] / 3), (rest, options["rate"])) if g]
    optimizer = torch.optim.AdamW(groups, weight_decay=options["decay"])
    rates = [group["lr"] for group in optimizer.param_groups]
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(options["average"]), use_buffers=False)
    start, steps, epoch = time.monotonic(), 0, 0
    net.train()
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        objective.batches.epoch = epoch
        for indices in objective.batches:
            share = (time.monotonic() - start) / (60 * minutes)
            if share >= 1:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, share / 0.05) * 0.5 * float(1 + torch.cos(torch.tensor(share * torch.pi)))
            batch = objective.collate(indices)
            loss = sum(net(list(batch["x"][:, :, 0]), targets(batch)).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(net)
            steps += 1
        epoch += 1
    done: RetinaNet = average.module
    for own, latest in zip(done.buffers(), net.buffers(), strict=True):
        own.copy_(latest)
    return done.eval(), steps


def targets(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """torchvision's boxes are (x0, y0, x1, y1)."""
    return [
        {"boxes": boxes[labels >= 0][:, [2, 1, 5, 4]], "labels": labels[labels >= 0]}
        for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
    ]


@torch.inference_mode()
def find(net: RetinaNet, x: Tensor, patch: Sequence[int]) -> Found:
    """x (3, 1, h, w), filled up to `patch` (1, H, W) as in training -> boxes (N, 6), scores, labels."""
    (found,) = net([nn.functional.pad(x[:, 0].float(), (0, patch[2] - x.shape[3], 0, patch[1] - x.shape[2]))])
    boxes = found["boxes"]
    flat = torch.stack([boxes[:, 0] * 0, boxes[:, 1], boxes[:, 0], boxes[:, 0] * 0 + 1, boxes[:, 3], boxes[:, 2]], 1)
    return flat, found["scores"], found["labels"]


def common(names: Sequence[str], drawn: Sequence[Tensor], least: int) -> list[int]:
    """The classes, numbers in `names`, with `least` boxes or more; drawn: the labels of each scan."""
    counts = torch.bincount(torch.cat(list(drawn)), minlength=len(names))
    return [k for k in range(len(names)) if counts[k] >= least]


def of_classes(found: Sequence[Tensor], kept: Sequence[int]) -> tuple[Tensor, ...]:
    """Boxes, perhaps scores, and labels (last) of the classes `kept` alone, renumbered in their order."""
    rows = torch.isin(found[-1], torch.tensor(kept))
    labels = torch.tensor([kept.index(int(k)) for k in found[-1][rows]], dtype=torch.long)
    return (*(part[rows] for part in found[:-1]), labels)


def main() -> None:
    """Train for as long as the run took, look at the held-out pictures with both."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("recipe")
    words.add_argument("run", type=Path)
    words.add_argument("overrides", nargs="*")
    words.add_argument("--output", type=Path, required=True)
    words.add_argument("--least", type=int, default=1)
    words.add_argument("--backbone", choices=("lite2", "resnet50"), default="lite2")
    given = words.parse_args()
    recipe = config.load_recipe(f"detection/{given.recipe}", given.overrides)
    spent = json.loads((given.run / "checkpoint" / "progress.json").read_text())["spent"] / 60
    torch.manual_seed(0)
    objective = config.build("objectives", recipe["objective"], data=recipe["data"], seed=0)
    names, own = objective.network.labels, load_detector(given.run)
    net = retinanet(
        given.backbone, classes=len(names), patch=objective.patch, width=recipe["objective"]["model"]["head"]["width"]
    )
    net, steps = trained(net, objective, options=recipe["train"], minutes=spent)
    found: dict[str, list[Found]] = {"ours": [], "retinanet": []}
    for case in objective.held:
        found["ours"].append(own.find(Grid.of(case.x, case.spacing, own.preparation)))
        found["retinanet"].append(find(net, case.x, objective.patch))
    kept = common(names, [case.labels for case in [*objective.cases, *objective.held]], given.least)
    drawn: Any = [of_classes((case.boxes, case.labels), kept) for case in objective.held]
    patients, ap = [case.patient for case in objective.held], {}
    for key, boxes in found.items():
        rows: Any = [of_classes(one, kept) for one in boxes]
        ap[key] = box_figures(rows, drawn, [names[k] for k in kept], patients, resamples=200, seed=0)["ap50"]
    metrics = {
        "recipe": given.recipe, "backbone": given.backbone, "minutes": round(spent, 2), "steps": steps,
        "classes": len(kept), "parameters": {"ours": _count(own), "retinanet": _count(net)}, "ap50": ap,
        "ratio": round(ap["ours"]["value"] / max(ap["retinanet"]["value"], 1e-3), 3),
    }  # fmt: skip
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics))


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    main()
