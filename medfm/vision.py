"""The eye: shared encoder, structure maps and connector, trained together before any language model is near."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm import assets, config
from medfm.errors import ConfigError
from medfm.heads.structures import StructureHead
from medfm.language.connector import Connector
from medfm.language.glance import Panel
from medfm.metrics import normalise_answer

__all__ = ["Glimpse", "Seen", "Vision", "load_fitting"]


class Seen(NamedTuple):
    """One look at a scan: pyramid (five levels), structure logits (B, K, D, H/8, W/8), tokens (B, M, E).

    memory: what questions look at again (B, looks, M, inner), None where no answers are known.
    """

    pyramid: list[Tensor]
    logits: Tensor
    tokens: Tensor
    memory: Tensor | None


class Glimpse(NamedTuple):
    """What a frozen eye hands on of a scan, small enough to keep: `patches` (B, D, h, w, F) and `summary` (B, 5, K)
    for the connector, `plain` (B, D, h, w, G) for the panel of second looks."""

    patches: Tensor
    summary: Tensor
    plain: Tensor


class Vision(nn.Module):
    """x (B, 3, D, H, W) -> Seen.

    The panel reads the convolutions' own stages where the encoder shows them (`convolve`): attention and structure maps
    fit the few cases they have learned from so well that a second look would trust them too much.

    Args:
        encoder: a node of configs/model. labels: names of the structures. width: of the language model's word vectors.
        answers: known answers, among which a second look with the question in mind chooses; none = no such look.
        looks: members of the panel that takes that second look.
    """

    def __init__(
        self, *, encoder: dict[str, Any], labels: list[str], width: int, answers: Sequence[str] = (), looks: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = config.build("encoders", encoder)
        self.structures = StructureHead(self.encoder.channels, labels=labels)
        self.connector = Connector(self.encoder.channels, len(labels), width)
        self.answers = list(answers)
        plain = sum(getattr(self.encoder, "stage_channels", self.encoder.channels)[2:])
        self.glance = Panel(plain, width, answers=len(answers), looks=looks) if answers else None

    @torch.no_grad()
    def know(self, answers: Sequence[str]) -> None:
        """Let the second looks choose among other answers; those known before keep what was learned of them, and new
        ones begin as unlikely."""
        assert self.glance is not None
        before = {normalise_answer(answer): row for row, answer in enumerate(self.answers)}
        rows = [before.get(normalise_answer(answer), -1) for answer in answers]
        for member in self.glance.members:
            last = member.choose[-1]
            assert isinstance(last, nn.Linear)
            more = nn.Linear(last.in_features, len(rows), device=last.weight.device)
            for new, old in enumerate(rows):
                more.bias[new] = last.bias.min() if old < 0 else last.bias[old]
                if old >= 0:
                    more.weight[new] = last.weight[old]
            member.choose[-1] = more
        self.answers = list(answers)

    def write(self, file: Path) -> None:
        """Save the weights as safetensors in half precision."""
        halves = {n: t.half() if t.is_floating_point() else t for n, t in self.state_dict().items()}
        assets.write_tensors(halves, file)

    def look(self, x: Tensor, spacing: Tensor) -> tuple[list[Tensor], Tensor, Glimpse]:
        """The pyramid, the structure logits, and what the rest needs of them."""
        if hasattr(self.encoder, "convolve"):
            stages = self.encoder.convolve(x, spacing)
            pyramid = self.encoder.pyramid(stages, spacing)
        else:
            stages = pyramid = self.encoder(x, spacing)
        logits = self.structures(pyramid, spacing)
        patches, summary = self.connector.gather(pyramid, logits), self.structures.summary(logits)
        depth, height, width = patches.shape[1:4]
        plain = [F.adaptive_avg_pool3d(stage, (depth, height, width)) for stage in stages[2:]]
        return pyramid, logits, Glimpse(patches, summary, torch.cat(plain, 1).permute(0, 2, 3, 4, 1))

    def forward(self, x: Tensor, spacing: Tensor) -> Seen:
        pyramid, logits, glimpse = self.look(x, spacing)
        memory = self.glance.remember(glimpse.plain) if self.glance else None
        return Seen(pyramid, logits, self.connector(glimpse.patches, glimpse.summary), memory)


def load_fitting(vision: Vision, tensors: dict[str, Tensor]) -> None:
    """Load what has the same name and shape: an older eye may know other answers, or have no second look at all.

    Raises:
        ConfigError: a part of the eye itself (encoder, structures, connector) does not fit.
    """
    own = vision.state_dict()
    fitting = {n: t for n, t in tensors.items() if n in own and own[n].shape == t.shape}
    missing = sorted(n for n in own.keys() - fitting.keys() if not n.startswith("glance."))
    if missing:
        raise ConfigError(
            f"the eye to go on from lacks {missing[0]} and {len(missing) - 1} more, or has them in another shape; "
            "expected the same encoder and structures as the recipe's"
        )
    vision.load_state_dict(fitting, strict=False)
