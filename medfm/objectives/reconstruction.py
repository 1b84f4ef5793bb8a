"""Pictures against the data a scanner would have measured of them: simulate, reconstruct, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.data.batches import Batches
from medfm.data.slices import SliceCase, both_slices
from medfm.errors import ConfigError
from medfm.objectives.adversarial import Adversary, Perceptual
from medfm.objectives.groups import at_one_rate
from medfm.physics.acquire import Measured
from medfm.physics.linear import residual
from medfm.physics.mri import Cartesian
from medfm.reconstructor import Reconstructor

__all__ = ["Reconstruction", "fidelity", "gradient_difference", "measure"]


class Reconstruction(nn.Module):
    """Trains a `Reconstructor` on slices that are measured anew each time, with new noise and new sampling.

    Args:
        model: `head` and `encoder` nodes. physics: what is simulated; see `medfm.physics.acquire`.
        data: see `medfm.data.slices.both_slices`. depth: slices of a slab, for 3D.
        batch: slices a step. crops, patch: so many parts of each slice are learnt from, `patch` pixels wide; the slice
            is measured whole. Square ones for heads that do not look at the data. Of MR sampled by whole rows, strips
            of all rows: columns do not mix there, so a strip's k-space is known too. 0: whole slices.
        mse, l1: weights of the squared and the absolute error of the last stage. deep: of the mean squared error of
            the stages before it. gradient: of the absolute error of the gradients (TSMLSRNet's second stage).
        even: the squared error of the last stage, and the perceptual one, are taken as shares of the direct picture's
            own, for else a slice with three times the noise counts nine times.
        doses: CT is measured with up to so many times more or fewer photons than `physics` says, anew in each step.
        perceptual: {"weight"}: of `Perceptual`. adversarial: arguments of `Adversary`: WGAN-VGG.
        checked: held-out slices looked at after a pass.
    """

    def __init__(
        self, *, model: dict[str, Any], physics: dict[str, Any], data: dict[str, Any], depth: int = 1, batch: int = 4,
        crops: int = 0, patch: int = 64, mse: float = 1.0, l1: float = 0.0, deep: float = 0.0, gradient: float = 0.0,
        even: bool = False, doses: float = 1.0, perceptual: dict[str, Any] | None = None,
        adversarial: dict[str, Any] | None = None, checked: int = 16, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = Reconstructor(head=model["head"], encoder=model.get("encoder"), physics=physics)
        self.cases, self.held = both_slices(data, hounsfield=self.network.hounsfield, depth=depth)
        self.network.about.update(_about(data, self.cases, self.held))
        self.crops, self.patch, self.checked = crops, patch, checked
        if crops and self.network.complex and not _by_rows(self.network.acquisition):
            raise ConfigError("crops: found MR sampled otherwise than by whole rows, or coil maps; expected crops: 0")
        self.mse, self.l1, self.deep, self.gradient, self.even = mse, l1, deep, gradient, even
        if doses < 1 or (doses > 1 and not self.network.hounsfield):
            raise ConfigError(f"doses: found {doses:g}; expected a number of 1 or more, and more than 1 for CT alone")
        self.doses = doses
        self.perceptual = Perceptual(ct=self.network.hounsfield) if perceptual else None
        self.likeness = (perceptual or {}).get("weight", 0.1)
        side = min(patch, self.cases[0].image.shape[-1]) if crops else self.cases[0].image.shape[-1]
        self.adversary = Adversary(patch=side, **adversarial) if adversarial else None
        self.batches = Batches([0] * len(self.cases), batch, seed=seed)

    def collate(self, indices: list[int]) -> dict[str, Tensor]:
        """image (B, 1, D, S, S); mirror (B, 2): along which of H and W; pixel (B,) mm; thickness (B,) mm; draw: a seed
        for the physics."""
        generator = self.batches.generator(indices)
        cases = [self.cases[i] for i in indices]
        return {
            "image": torch.stack([case.image for case in cases]),
            "mirror": torch.rand(len(cases), 2, generator=generator) < 0.5,
            "pixel": torch.tensor([c.pixel for c in cases]),
            "thickness": torch.tensor([c.thickness for c in cases]),
            "draw": torch.randint(2**31, (), generator=generator),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(int(batch["draw"]))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):  # physics is computed there, and never in half
            after = self.network.hounsfield and not self.network.data  # a mirrored body needs no rays of its own
            whole, mirror = batch["image"].cpu(), batch["mirror"].cpu()
            image = whole if after else _mirrored(whole, mirror)
            varied: dict[str, float] = {}
            if self.doses > 1:
                varied["dose"] = self.doses ** (2 * float(torch.rand((), generator=generator)) - 1)
            m = measure(self.network, image, generator, pixel=float(batch["pixel"][0]), **varied)
            start, truth = m.operator.start(m.y), m.x
            if after:
                start, truth = (_mirrored(part, mirror) for part in (start, truth))
            given = (start, truth, m.y, self.network.scale(start))
        start, truth, y, scale = (part.to(self.network.device) for part in given)
        spacing = torch.stack([batch["thickness"], batch["pixel"], batch["pixel"]], 1)
        operator = m.operator.to(self.network.device) if self.network.data else m.operator
        if self.crops and isinstance(operator, Cartesian):
            start, truth, scale, spacing = self._cropped(start, truth, scale, spacing, generator, rows=True)
            operator = Cartesian(operator.mask[..., : start.shape[-1]].repeat_interleave(self.crops, 0))
            y = operator.A(start)
            stages = self.network(start, y, operator, spacing, scale=scale)
        elif self.crops and not self.network.data and start.shape == truth.shape:
            start, truth, scale, spacing = self._cropped(start, truth, scale, spacing, generator)
            stages = self.network(start, spacing=spacing, scale=scale)
        else:
            stages = self.network(start, y, operator, spacing, scale=scale)
        found = [stage / scale for stage in stages]
        truth = truth / scale
        errors = _errors(found[-1], truth)
        parts = {"mse": errors.mean()}
        loss = self.mse * (errors / _errors(start / scale, truth) if self.even else errors).mean()
        if self.l1:
            loss = loss + self.l1 * (found[-1] - truth).abs().mean()
        if self.deep and len(found) > 1:
            earlier = [(stage - truth).abs().square().mean() for stage in found[:-1]]
            loss = loss + self.deep * torch.stack(earlier).mean()
        if self.gradient:
            loss = loss + self.gradient * gradient_difference(found[-1], truth)
        if self.perceptual is not None:
            parts["likeness"] = self.perceptual(found[-1], truth, start / scale if self.even else None)
            loss = loss + self.likeness * parts["likeness"]
        if self.adversary is not None:
            if self.training:
                parts |= self.adversary.learn(truth, found[-1].detach(), generator)
            loss = loss + self.adversary(found[-1])
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def _cropped(
        self, start: Tensor, truth: Tensor, scale: Tensor, spacing: Tensor, generator: torch.Generator, *,
        rows: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """`crops` parts of each slice, start and truth at the same places; those with tissue in them, if they can."""
        side = min(self.patch, start.shape[-1])
        height = start.shape[-2] if rows else side
        a, b, units, mm = [], [], [], []
        for case in range(len(start)):
            for _ in range(self.crops):
                for _attempt in range(4):
                    i = int(torch.randint(start.shape[-2] - height + 1, (), generator=generator))
                    j = int(torch.randint(start.shape[-1] - side + 1, (), generator=generator))
                    part = (slice(case, case + 1), ..., slice(i, i + height), slice(j, j + side))
                    if truth[part].abs().mean() > 0.1:
                        break
                a.append(start[part])
                b.append(truth[part])
                units.append(scale[case : case + 1])
                mm.append(spacing[case : case + 1])
        return torch.cat(a), torch.cat(b), torch.cat(units), torch.cat(mm)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """PSNR in dB over held-out slices ("score"), that of the direct reconstruction ("start"), SSIM of both.

        "residual" is the 95th percentile of what of the data the picture does not explain, for later warnings.
        """
        rows, gaps = [], []
        step = max(1, len(self.held) // self.checked)
        for number, case in enumerate(self.held[::step][: self.checked]):
            m = measure(self.network, case.image[None], torch.Generator().manual_seed(number), pixel=case.pixel)
            start = m.operator.start(m.y)
            spacing = torch.tensor([[case.thickness, case.pixel, case.pixel]])
            found, _ = self.network.reconstruct(start, m.y, m.operator, spacing)
            rows.append([*fidelity(found, m.x, ct=self.network.hounsfield), *_first(start, m, self.network)])
            gaps.append(residual(m.operator, found, m.y))
        psnr, ssim, before, plain = torch.tensor(rows).mean(0).tolist()
        self.network.about["residual"] = round(float(torch.cat(gaps).quantile(0.95)), 5)
        return {"score": psnr, "ssim": ssim, "start": before, "start_ssim": plain}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """All that learns, at one rate; the adversary learns by itself."""
        return at_one_rate(self.network, rate)

    def save(self, folder: Path) -> None:
        """A folder for `medfm.reconstructor.load_reconstructor`."""
        self.network.save(folder)


def measure(
    network: Reconstructor, image: Tensor, generator: torch.Generator, *, pixel: float, **varied: float
) -> Measured:
    """What the network's acquisition measures of image (B, 1, D, H, W); varied: as for `CTAcquisition`."""
    measured: Measured = network.acquisition(image, generator, pixel=pixel, **varied)
    return measured


def _mirrored(x: Tensor, mirror: Tensor) -> Tensor:
    """x (B, C, D, H, W), each along H, W, both or neither, as `mirror` (B, 2) says."""
    axes = [[a for a, chosen in zip((2, 3), row, strict=True) if chosen] for row in mirror.tolist()]
    return torch.stack([one.flip(own) for one, own in zip(x, axes, strict=True)])


def _errors(x: Tensor, truth: Tensor) -> Tensor:
    """(B,): the mean squared error of each."""
    return (x - truth).abs().square().flatten(1).mean(1)


def _by_rows(acquisition: Any) -> bool:
    """Whether what lies in one column of a slice is measured apart from the other columns."""
    plain = acquisition.coils == 0 or acquisition.separate
    return acquisition.kind in ("lines", "equispaced") and acquisition.ndim == 2 and plain


def gradient_difference(x: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of the differences along H and W."""
    gaps = [(x.diff(dim=axis) - truth.diff(dim=axis)).abs().mean() for axis in (-2, -1)]
    return torch.stack(gaps).mean()


def fidelity(x: Tensor, truth: Tensor, *, ct: bool) -> tuple[float, float]:
    """PSNR in dB and SSIM of the moduli, coils combined; (1, C, D, H, W).

    Of CT over a range of 2000 HU, clipped to -1000 to 1000; of the rest over [0, 1], the range of the scan.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (_shown(part, ct=ct) for part in (x, truth))
    error = (a - b).square().mean().clamp(min=1e-12)
    ssim = structural_similarity_index_measure(a, b, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return float(-10 * torch.log10(error)), float(ssim)


def _shown(x: Tensor, *, ct: bool) -> Tensor:
    """(B, C, D, H, W) -> slices (B D, 1, H, W) of which 1 is the range."""
    if ct:
        x = x.clamp(0, 2) / 2
    else:
        x = x.abs().square().sum(1, keepdim=True).sqrt() if x.is_complex() or x.shape[1] > 1 else x.abs()
    return x.transpose(1, 2).flatten(0, 1)


def _first(start: Tensor, m: Measured, network: Reconstructor) -> tuple[float, float]:
    if start.shape != m.x.shape:
        start = F.interpolate(start, m.x.shape[2:], mode="trilinear", align_corners=False)
    return fidelity(start, m.x, ct=network.hounsfield)


def _about(data: dict[str, Any], cases: list[SliceCase], held: list[SliceCase]) -> dict[str, Any]:
    return {
        "data": sorted({c.scan for c in cases}),
        "trained on": len(cases),
        "held out": sorted({c.name for c in held}),
        "size": data.get("size", 128),
        "plane": data.get("plane", "axial"),
        "pixel mm": sorted({round(c.pixel, 3) for c in cases}),
    }
