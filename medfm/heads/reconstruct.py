"""Reconstruction heads: a pyramid to a picture, in the picture's own domain, in bands, or inside an unrolled loop."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm import config
from medfm.errors import ConfigError
from medfm.heads.segment import SegmentHead
from medfm.image.intensity import CT_WINDOWS, windowed
from medfm.nn.complexes import ComplexConv, to_complex, to_real
from medfm.nn.directional import band_count, directional_bands, from_bands
from medfm.nn.slices import fold, unfold
from medfm.nn.stages import convolution, rounded_up, triple
from medfm.physics.linear import Linear

__all__ = ["Direct", "Refiner", "Unrolled", "Wavelet"]

Form = Literal["last", "joined", "mirror", "decoder"]


class Refiner(nn.Module):
    """An encoder and the way back from its pyramid: a picture to a better one of the same channels.

    Args:
        encoder: a node of configs. One that reads three channels in [0, 1] (hybrid, shared) is shown the modulus, or
            three HU windows of CT. channels: numbers a voxel of the picture, two a complex one. ct: see above.
        form: what makes the change of the picture. last: a convolution of the last level. joined: one of `levels`
            together (WavResNet). decoder: a U-Net's (`SegmentHead`) with arguments `decoder`. mirror: transposed
            convolutions of the encoder's kernel, to which `levels` of the pyramid (0: the picture) are added
            (RED-CNN); it gives the picture itself, never negative.
        stem: width of a convolution of the picture at full resolution, the decoder's finest level, for encoders whose
            own is coarser; 0: none.
        kernel: of the last convolution. residual: the change is added to the picture; False: it is the picture.
        drop: share of the pyramid's channels that a decoder goes without in training, and in `samples` of predictions.
    """

    def __init__(
        self, *, encoder: dict[str, Any], channels: int, ct: bool = False, form: Form = "last", kernel: int = 3,
        levels: list[int] | None = None, decoder: dict[str, Any] | None = None, stem: int = 0, residual: bool = True,
        drop: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if drop and form != "decoder":
            raise ConfigError(f"refiner.drop goes with form: decoder; found {form!r}. A stack of layers has its own")
        self.drop = nn.Dropout3d(drop) if drop else None
        self.form, self.ct, self.residual, self.levels = form, ct, residual, levels or []
        self.encoder = config.build("encoders", encoder)
        self.shown = not hasattr(self.encoder, "inputs")  # pictures for eyes: three channels in [0, 1]
        self.ndim: int = getattr(self.encoder, "ndim", 2)
        widths, strides = self.encoder.channels, self.encoder.strides
        self.stem = convolution(self.ndim, channels, stem, triple(3, ndim=self.ndim)) if stem else None
        if self.stem is not None:
            widths, strides = (stem, *widths), ((1, 1, 1), *strides)
        self.complex = bool(getattr(self.encoder, "complex", False))
        size = triple(kernel, ndim=self.ndim)
        if form == "decoder":
            self.out: nn.Module = SegmentHead(widths, strides, channels, **{"ndim": self.ndim, **(decoder or {})})
            last: Any = self.out.logits[0]
        elif form == "mirror":
            self.out = nn.ModuleList(
                _transposed(self.ndim, b, a, kernel) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
            )
            last = self.out[-1]
        else:
            entering = sum(widths[level] for level in self.levels) if form == "joined" else widths[-1]
            self.out = (
                ComplexConv(self.ndim, entering // 2, channels // 2, size)
                if self.complex
                else convolution(self.ndim, entering, channels, size)
            )
            last = self.out
        if residual or form == "mirror":  # training starts from the picture itself
            for parameter in last.parameters():
                nn.init.normal_(parameter, std=1e-3 if parameter.ndim > 1 else 0.0)

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> Tensor:
        """x: (B, channels, D, H, W) real -> the same. Sizes that the coarsest level does not divide are rounded up: on
        odd ones the eye's strided convolutions would lie half a pixel off, and more with each level."""
        sizes = x.shape[2:]
        better = self._refined(rounded_up(x, self.encoder.strides[-1]), spacing)
        return better[..., : sizes[0], : sizes[1], : sizes[2]]

    def _refined(self, x: Tensor, spacing: Tensor | None) -> Tensor:
        pyramid = self.encoder(self._seen(x) if self.shown else x, spacing)
        if self.form == "mirror":
            return self._mirrored(pyramid)
        change = self._change(pyramid, x)
        return x + change if self.residual else change

    def _change(self, pyramid: list[Tensor], x: Tensor) -> Tensor:
        batch = len(x)
        if self.form == "decoder":
            if self.stem is not None:
                full = self.stem(fold(x) if self.ndim == 2 else x)
                pyramid = [unfold(full, batch) if self.ndim == 2 else full, *pyramid]
            if self.drop is not None:
                pyramid = [self.drop(level) for level in pyramid]
            change: Tensor = self.out(pyramid, x.shape[2:])[0]
            return change
        y = torch.cat([pyramid[level] for level in self.levels], 1) if self.form == "joined" else pyramid[-1]
        flat: Tensor = self.out(fold(y)) if self.ndim == 2 else self.out(y)
        return unfold(flat, batch) if self.ndim == 2 else flat

    def _mirrored(self, pyramid: list[Tensor]) -> Tensor:
        assert isinstance(self.out, nn.ModuleList)
        levels = [fold(level) for level in pyramid] if self.ndim == 2 else pyramid
        y = levels[-1]
        for below, layer in zip(range(len(levels) - 2, -1, -1), self.out, strict=True):
            y = layer(y)
            y = F.relu(y + levels[below] if below in self.levels else y)
        return unfold(y, len(pyramid[0])) if self.ndim == 2 else y

    def _seen(self, x: Tensor) -> Tensor:
        """What an encoder of pictures is shown: (B, 3, D, H, W) in [0, 1]."""
        if self.ct:
            hu = (x - 1) * 1000
            return windowed(hu, CT_WINDOWS, dim=1)  # as the shared encoder was trained to see CT
        grey = x.square().sum(1, keepdim=True).sqrt() if x.shape[1] > 1 else x
        return grey.clamp(0, 1).expand(-1, 3, -1, -1, -1)


def _transposed(ndim: int, entering: int, out: int, kernel: int) -> nn.Module:
    """The way back from an unpadded convolution, begun with He's variance as the stack itself is."""
    layer = (nn.ConvTranspose2d if ndim == 2 else nn.ConvTranspose3d)(entering, out, kernel)
    assert layer.bias is not None
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class Direct(nn.Module):
    """The direct reconstruction, refined once: RED-CNN, WGAN-VGG's generator, U-Nets, the shared encoder.

    Args: encoder, channels, ct and `refiner` (further arguments): see `Refiner`.
    """

    data = False  # does not look at the measurement again

    def __init__(
        self, *, encoder: dict[str, Any], channels: int, ct: bool = False, refiner: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.refiner = Refiner(encoder=encoder, channels=channels, ct=ct, **(refiner or {}))

    def forward(self, x: Tensor, y: Tensor | None, operator: Linear | None, spacing: Tensor | None) -> list[Tensor]:
        """x: the direct reconstruction (B, C, D, H, W), real or complex -> [the better one]."""
        better = self.refiner(to_real(x), spacing)
        return [to_complex(better) if x.is_complex() else better]


class Wavelet(nn.Module):
    """The noise of all directional bands, estimated together and taken away: WavResNet (Kang et al., IEEE TMI 2018).

    Args:
        encoder: reads `band_count(directions)` channels a channel. directions: of each octave, finest first.
        refiner: see `Refiner`.
    """

    data = False

    def __init__(
        self, *, encoder: dict[str, Any], channels: int, ct: bool = False, directions: list[int] | None = None,
        refiner: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.directions = tuple(directions or [8, 4, 2])
        self.count = band_count(self.directions)
        if channels != 1:
            raise ConfigError(f"the wavelet head reads real pictures of one channel; found {channels}")
        self.refiner = Refiner(encoder=encoder, channels=self.count, ct=ct, **(refiner or {}))

    def forward(self, x: Tensor, y: Tensor | None, operator: Linear | None, spacing: Tensor | None) -> list[Tensor]:
        bands = directional_bands(fold(x)[:, 0], self.directions)
        better = self.refiner(bands[:, :, None], None)[:, :, 0]  # bands minus their noise
        size = (x.shape[-2], x.shape[-1])
        return [unfold(from_bands(better, self.directions, size)[:, None], len(x))]


class Unrolled(nn.Module):
    """Refine, agree with the data, refine again: `cascades` times.

    Deep cascades of CNNs (Schlemper et al., IEEE TMI 2018) with exact consistency; DeepcomplexMRI with complex
    convolutions and separate coils; MoDL (Aggarwal et al., IEEE TMI 2019) with shared weights and coil maps.

    Args:
        encoder, channels, ct, refiner: see `Refiner`.
        consistency: exact: what was measured is put back as it is. learned: weighed against the picture by a learned
            weight (noisy data). none: the loop without the data, for comparison.
        shared: one refiner for all cascades. steps: of conjugate gradients, where consistency has no closed form.
    """

    def __init__(
        self, *, encoder: dict[str, Any], channels: int, ct: bool = False, refiner: dict[str, Any] | None = None,
        cascades: int = 5, consistency: Literal["exact", "learned", "none"] = "exact", shared: bool = False,
        steps: int = 6,
    ) -> None:  # fmt: skip
        super().__init__()
        self.cascades, self.consistency, self.steps = cascades, consistency, steps
        self.data = consistency != "none"
        self.refiners = nn.ModuleList(
            Refiner(encoder=encoder, channels=channels, ct=ct, **(refiner or {}))
            for _ in range(1 if shared else cascades)
        )
        self.weight = nn.Parameter(torch.zeros(())) if consistency == "learned" else None

    def forward(self, x: Tensor, y: Tensor | None, operator: Linear | None, spacing: Tensor | None) -> list[Tensor]:
        """x: the direct reconstruction; y: the data of `operator` -> a picture a cascade, the last the best."""
        stages = []
        for index in range(self.cascades):
            better = self.refiners[index % len(self.refiners)](to_real(x), spacing)
            x = to_complex(better) if x.is_complex() else better
            if self.data:
                assert y is not None and operator is not None
                weight = None if self.weight is None else self.weight.exp()
                x = operator.consistent(x, y, weight=weight, steps=self.steps)
            stages.append(x)
        return stages
