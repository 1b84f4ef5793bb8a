"""The shared encoder: convolutions started from ImageNet, then attention in millimetres, for pictures and volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medfm.errors import ShapeError
from medfm.nn.attention import Block, centred_positions
from medfm.nn.slices import DepthMix, InvertedBottleneck, SameConv, fold, unfold

__all__ = ["HybridEncoder"]

# EfficientNet-Lite2: repeats, kernel, stride, expansion, width (Tan & Le 2019; Lite release 2020).
_STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
_TAPS = (0, 1, 2, 4, 6)  # the last stage of each resolution: strides 2, 4, 8, 16, 32


class HybridEncoder(nn.Module):
    """(B, 3, D, H, W) -> pyramid of up to five levels, finest first, strides 2 to 32 in H and W and 1 in D.

    A picture is a volume of one slice. Any H, W >= 32 is taken (levels round up); the grid of slices is never strided,
    so anisotropic volumes keep their slices and `DepthMix` and attention weigh them by mm.

    Args:
        width: channels of the last level, divisible by 6 * heads.
        depth: number of attention blocks on the last level.
        drop_path: stochastic depth of the residual convolutions in training.
        levels: how many; with fewer than five neither the rest of the convolutions nor the attention is built, which
            leaves a quarter of the weights at four.
    """

    mean, std = 127 / 255, 128 / 255  # of the ImageNet weights; input x is in [0, 1]

    def __init__(
        self, *, width: int = 384, depth: int = 2, heads: int = 8, drop_path: float = 0.1, levels: int = 5
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= levels <= len(_TAPS):
            raise ShapeError(f"found levels {levels}, expected 1 to {len(_TAPS)}")
        if width % (6 * heads):
            raise ShapeError(f"width {width} must be divisible by 6 x heads = {6 * heads} (three axes of positions)")
        self.stem = nn.Sequential(SameConv(3, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32, eps=1e-3, momentum=0.01))
        self.stages = nn.ModuleList()
        self.mix = nn.ModuleDict()
        total, done, width_in = sum(s[0] for s in _STAGES), 0, 32
        for index, (repeats, kernel, stride, expand, out) in enumerate(_STAGES[: _TAPS[levels - 1] + 1]):
            blocks = []
            for repeat in range(repeats):
                blocks.append(
                    InvertedBottleneck(
                        width_in, out, kernel=kernel, stride=stride if repeat == 0 else 1, expand=expand,
                        drop_path=drop_path * done / total,
                    )
                )  # fmt: skip
                width_in, done = out, done + 1
            self.stages.append(nn.Sequential(*blocks))
            if index in _TAPS:
                self.mix[str(index)] = DepthMix(out)
        self.attends = levels == len(_TAPS)
        if self.attends:
            self.lift = nn.Linear(width_in, width)
            self.place = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, width))
            self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
        self.stage_channels = tuple(stage[4] for stage in _STAGES[: len(self.stages)])
        self.channels = (*(_STAGES[t][4] for t in _TAPS[:-1]), width)[:levels]
        self.strides = tuple((1, s, s) for s in (2, 4, 8, 16, 32)[:levels])

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """x: (B, 3, D, H, W) in [0, 1]; spacing: (B, 3) mm along D, H, W (default 1 mm) -> the levels."""
        if spacing is None:
            spacing = x.new_ones(len(x), 3)
        return self.pyramid(self.convolve(x, spacing), spacing)

    def convolve(self, x: Tensor, spacing: Tensor) -> list[Tensor]:
        """What every stage of the convolutions gives of x, (B, C, D, h, w) each; `stage_channels` are their C."""
        if x.ndim != 5 or x.shape[1] != 3 or min(x.shape[3:]) < 32:
            raise ShapeError(f"found an input of shape {tuple(x.shape)}, expected (B, 3, D, H >= 32, W >= 32)")
        batch, stages, stride = len(x), [], 2
        y = nn.functional.relu6(
            self.stem(fold((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        )
        for index, stage in enumerate(self.stages):
            y = stage(y)
            stages.append(unfold(y, batch))
            if index in _TAPS:
                stages[-1] = self.mix[str(index)](stages[-1], spacing, stride)
                y = fold(stages[-1]).contiguous(memory_format=torch.channels_last)
                stride *= 2
        return stages

    def pyramid(self, stages: Sequence[Tensor], spacing: Tensor) -> list[Tensor]:
        """What `convolve` gave -> the levels: the last stage of each resolution, the coarsest with attention."""
        levels = [stages[index] for index in _TAPS if index < len(stages)]
        if self.attends:
            levels[-1] = self._attend(levels[-1], spacing)
        return levels

    def _attend(self, x: Tensor, spacing: Tensor) -> Tensor:
        shape = (x.shape[2], x.shape[3], x.shape[4])
        cells = spacing * spacing.new_tensor(self.strides[-1])
        positions = centred_positions(shape, cells)
        extent = torch.tensor(shape, device=x.device, dtype=x.dtype) * cells / 2
        y = self.lift(x.flatten(2).transpose(1, 2)) + self.place(positions / extent[:, None])
        for block in self.blocks:
            y = block(y, positions)
        return self.norm(y).transpose(1, 2).unflatten(2, shape)

    def load_imagenet(self, tensors: dict[str, Tensor]) -> None:
        """Start the convolutions from EfficientNet-Lite2's ImageNet tensors (names of `efficientnet_lite_pytorch`); an
        encoder of fewer levels takes those of its own stages."""
        renamed = {}
        blocks = [f"stages.{s}.{b}" for s, (repeats, *_) in enumerate(_STAGES) for b in range(repeats)]
        built = sum(repeats for repeats, *_ in _STAGES[: len(self.stages)])
        parts = {
            "_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1",
            "_project_conv": "project.0", "_bn2": "project.1",
        }  # fmt: skip
        for name, tensor in tensors.items():
            head, *rest = name.split(".")
            if head == "_conv_stem":
                renamed[f"stem.0.{rest[-1]}"] = tensor
            elif head == "_bn0":
                renamed[f"stem.1.{rest[-1]}"] = tensor
            elif head == "_blocks" and int(rest[0]) < built:
                renamed[f"{blocks[int(rest[0])]}.{parts[rest[1]]}.{rest[2]}"] = tensor
        missing, unexpected = self.load_state_dict(renamed, strict=False)
        convolutions = [n for n in missing if n.startswith(("stem", "stages"))]
        if convolutions or unexpected:
            raise ShapeError(
                f"these are not EfficientNet-Lite2's tensors: missing {convolutions[:3]}, unknown {unexpected[:3]}"
            )
