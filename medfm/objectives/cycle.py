"""Two kinds of scans without pairs: translate there and back, and let two critics judge what is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.config import check_keys
from medfm.data.batches import Batches
from medfm.data.slices import SliceCase, both_slices, signed
from medfm.errors import DataError
from medfm.synthesizer import Translator

__all__ = ["Cycle", "gradient_consistency"]

_BLOCK = 8  # neighbouring slices that one side keeps to itself, where both are of one person


class Cycle(nn.Module):
    """Trains a `Translator` as CycleGAN does (Zhu et al., ICCV 2017): least-squares critics of patches, a cycle,
    perhaps identity, and Hiasa's consistency of gradients (SASHIMI 2018, arXiv 1803.06629).

    Args:
        model: `generator`, see `Translator`; `critic`, arguments of MONAI's `PatchDiscriminator`.
        data: `a` and `b`, lists of scans; `hounsfield`, of each; `size`, `hold` and `gap` as `medfm.data.slices`.
            `paired`: a and b are of the same people, voxel for voxel. Training then keeps their slices apart, and
            held-out ones tell the error. Else the error of the cycle is all that can be told.
        batch: slices of each kind a step.
        cycle, identity, gradient: weights beside the critics' word (10, 5 there; Hiasa's gradient was about a tenth of
            the cycle's). rate: of the critics' Adam. pool: made pictures that are remembered for the critics.
    """

    def __init__(
        self, *, model: dict[str, Any], data: dict[str, Any], batch: int = 1, cycle: float = 10.0,
        identity: float = 0.0, gradient: float = 0.0, rate: float = 2e-4, pool: int = 50, checked: int = 16,
        seed: int = 0,
    ) -> None:  # fmt: skip
        from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

        super().__init__()
        check_keys("data", data, {"a", "b", "hounsfield", "size", "hold", "gap", "paired"})
        hounsfield, paired = list(data.get("hounsfield", [False, False])), bool(data.get("paired", False))
        shared = {key: data[key] for key in ("size", "hold", "gap") if key in data} | {"plane": None}
        sides = [
            both_slices({"train": data[side], **shared}, hounsfield=ct)
            for side, ct in zip("ab", hounsfield, strict=True)
        ]
        self.first, self.second = (_own(part[0], side if paired else None) for side, part in enumerate(sides))
        self.held = list(zip(sides[0][1], sides[1][1], strict=False))[:: max(1, len(sides[0][1]) // checked)]
        self.hounsfield, self.paired = hounsfield, paired
        self.network = Translator(
            generator=model.get("generator", {}), size=int(data.get("size", 128)), hounsfield=hounsfield,
            about={"trained on": [len(self.first), len(self.second)],
                   "held out": [sorted({c.name for c in part[1]}) for part in sides]},
        )  # fmt: skip
        critic = {"channels": 64, "num_layers_d": 3, **model.get("critic", {})}
        self.critics = nn.ModuleList(
            PatchDiscriminator(2, in_channels=1, norm="instance", **critic) for _ in range(2)
        ).requires_grad_(False)
        self.descent = torch.optim.Adam(self.critics.parameters(), lr=rate, betas=(0.5, 0.999))
        self.weights = {"cycle": cycle, "identity": identity, "gradient": gradient}
        self.pool = pool
        self.made: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.batches = Batches([0] * len(self.first), batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """a and b (B, 1, S, S) in [-1, 1], b drawn without regard to a; draw: a seed for the memory."""
        generator = self.batches.generator(indices)
        others = torch.randint(len(self.second), (len(indices),), generator=generator).tolist()
        return {
            "a": torch.cat([signed(self.first[i].image[0], hounsfield=self.hounsfield[0])[:, None] for i in indices]),
            "b": torch.cat([signed(self.second[i].image[0], hounsfield=self.hounsfield[1])[:, None] for i in others]),
            "draw": torch.randint(2**31, (), generator=generator),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        a, b, network = batch["a"], batch["b"], self.network
        to_b, to_a = network(a), network(b, back=True)
        parts = {"cycle": F.l1_loss(network(to_b, back=True), a) + F.l1_loss(network(to_a), b)}
        if self.weights["identity"]:
            parts["identity"] = F.l1_loss(network(b), b) + F.l1_loss(network(a, back=True), a)
        if self.weights["gradient"]:
            parts["gradient"] = gradient_consistency(a, to_b) + gradient_consistency(b, to_a)
        if self.training:
            seen = self._remembered(to_a.detach(), to_b.detach(), int(batch["draw"]))
            parts["critics"] = self._learn((a, b), seen)
        fooled = sum((critic(x)[-1] - 1).square().mean() for critic, x in zip(self.critics, (to_a, to_b), strict=True))
        loss = fooled + sum(self.weights[name] * parts[name] for name in self.weights if name in parts)
        assert isinstance(loss, Tensor) and isinstance(fooled, Tensor)
        return {"loss": loss, "fooled": fooled.detach(), **{name: value.detach() for name, value in parts.items()}}

    @torch.enable_grad()
    def _learn(self, real: tuple[Tensor, Tensor], made: tuple[Tensor, Tensor]) -> Tensor:
        """A step of both critics: real patches are 1, made ones 0."""
        self.critics.requires_grad_(True)
        losses = [
            (critic(x)[-1] - 1).square().mean() / 2 + critic(y)[-1].square().mean() / 2
            for critic, x, y in zip(self.critics, real, made, strict=True)
        ]
        loss = torch.stack(losses).sum()
        self.descent.zero_grad()
        loss.backward()
        self.descent.step()
        self.critics.requires_grad_(False)  # the generators' step leaves them alone
        return loss.detach()

    def _remembered(self, to_a: Tensor, to_b: Tensor, draw: int) -> tuple[Tensor, Tensor]:
        """Half of the time an older picture than the newest, so that critics do not forget (Shrivastava 2017)."""
        generator = torch.Generator().manual_seed(draw)
        shown = []
        for memory, new in zip(self.made, (to_a, to_b), strict=True):
            rows = []
            for one in new:
                if len(memory) < self.pool:
                    memory.append(one)
                    rows.append(one)
                elif self.pool and torch.rand((), generator=generator) < 0.5:
                    place = int(torch.randint(len(memory), (), generator=generator))
                    rows.append(memory[place])
                    memory[place] = one
                else:
                    rows.append(one)
            shown.append(torch.stack(rows))
        return shown[0], shown[1]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean absolute error, the range being 1, of held-out slices: of the cycle, and where pairs are known of the
        translation ("score" is 1 - that), of the slice as it is, and of the slice with the other kind's histogram."""
        rows = []
        kind = torch.cat([signed(c.image, hounsfield=self.hounsfield[1]).flatten() for c in self.second]).sort().values
        for first, second in self.held:
            a = signed(first.image[0], hounsfield=self.hounsfield[0])[None]
            b = signed(second.image[0], hounsfield=self.hounsfield[1])[None]
            made = self.network(a.to(self.network.device))
            again, made = self.network(made, back=True).cpu(), made.cpu()
            below = torch.searchsorted(a.flatten().sort().values, a.flatten(), right=True) / a.numel()
            matched = kind[(below * (len(kind) - 1)).round().long()].view_as(a)  # its rank there, its value here
            pictures = (again - a, made - b, a - b, matched - b)
            rows.append([float(p.abs().mean()) / 2 for p in pictures])
        cycle, error, plain, histogram = torch.tensor(rows).mean(0).tolist()
        if not self.paired:
            return {"score": 1 - cycle, "cycle_mae": cycle}
        return {"score": 1 - error, "mae": error, "cycle_mae": cycle, "identity_mae": plain, "histogram_mae": histogram}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """Both generators; the critics learn by themselves."""
        return [{"params": list(self.network.parameters()), "lr": rate, "betas": (0.5, 0.999)}]

    def save(self, folder: Path) -> None:
        """A folder for `medfm.synthesizer.load_synthesizer`."""
        self.network.save(folder)


def gradient_consistency(x: Tensor, y: Tensor) -> Tensor:
    """1 - the mean of the absolute correlation of the gradients along H and W, (B, 1, H, W) each: 0 for a picture and
    any scaled, shifted or inverted copy of it, near 1 for two that have nothing in common."""
    shares = []
    for axis in (-2, -1):
        a, b = (part.diff(dim=axis).flatten(1) for part in (x, y))
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        shares.append(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)).abs())
    return 1 - torch.stack(shares).mean()


def _own(cases: list[SliceCase], side: int | None) -> list[SliceCase]:
    """Every second block of slices, the other ones for the other side; all without a side."""
    if side is None:
        return cases
    own = [c for c in cases if int(c.name.rsplit(":", 1)[1]) // _BLOCK % 2 == side]
    if not own:
        raise DataError(f"{len(cases)} slices are too few to be shared out in blocks of {_BLOCK}")
    return own
