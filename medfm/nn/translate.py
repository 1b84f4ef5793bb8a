"""The generator that CycleGAN took from style transfer: down twice, residual blocks, up twice."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ResidualGenerator"]


class ResidualGenerator(nn.Module):
    """(B, 1, H, W) in [-1, 1] -> the same (Johnson et al., ECCV 2016; Zhu et al., ICCV 2017).

    Reflected edges, instance norms, nearest-neighbour enlargement with a convolution in place of a transposed one,
    whose chequers are no anatomy. H and W must be divisible by 4.

    Args:
        width: channels at full resolution (64 there). blocks: residual ones (6 there for 128 pixels, 9 for 256).
    """

    def __init__(self, *, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_stage(1, width, kernel=7)]
        layers += [*_stage(width, 2 * width, stride=2), *_stage(2 * width, 4 * width, stride=2)]
        layers += [_Residual(4 * width) for _ in range(blocks)]
        for entering in (4 * width, 2 * width):
            layers += [nn.Upsample(scale_factor=2), *_stage(entering, entering // 2)]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 1, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_stage(width, width), nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=False),
            nn.InstanceNorm2d(width, affine=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.layers(x)
        return changed


def _stage(entering: int, out: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        nn.ReflectionPad2d(kernel // 2), nn.Conv2d(entering, out, kernel, stride, bias=False),
        nn.InstanceNorm2d(out, affine=True), nn.ReLU(),
    ]  # fmt: skip
