"""The eye: shared encoder, structure maps and connector, trained together before any language model is near."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor, nn

from medfm import config
from medfm.errors import ConfigError
from medfm.heads.structures import StructureHead
from medfm.language.connector import Connector
from medfm.language.glance import Panel

__all__ = ["Seen", "Vision", "load_fitting"]


class Seen(NamedTuple):
    """One look at a scan: pyramid (five levels), structure logits (B, K, D, H/8, W/8), tokens (B, M, E).

    memory: what questions look at again (B, looks, M, inner), None where no answers are known.
    """

    pyramid: list[Tensor]
    logits: Tensor
    tokens: Tensor
    memory: Tensor | None


class Vision(nn.Module):
    """x (B, 3, D, H, W) -> Seen.

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
        about = (self.connector.features, len(labels), width)
        self.glance = Panel(*about, answers=len(answers), looks=looks) if answers else None

    def write(self, file: Path) -> None:
        """Save the weights as safetensors in half precision."""
        halves = {n: t.half() if t.is_floating_point() else t for n, t in self.state_dict().items()}
        save_file({n: t.contiguous() for n, t in halves.items()}, file)

    def look(self, x: Tensor, spacing: Tensor) -> tuple[list[Tensor], Tensor]:
        """The pyramid and the structure logits, without the tokens."""
        pyramid = self.encoder(x, spacing)
        return pyramid, self.structures(pyramid, spacing)

    def forward(self, x: Tensor, spacing: Tensor) -> Seen:
        pyramid, logits = self.look(x, spacing)
        return self.describe(pyramid, logits)

    def describe(self, pyramid: list[Tensor], logits: Tensor) -> Seen:
        """What `look` found, in words-sized vectors."""
        patches, summary = self.connector.gather(pyramid, logits), self.structures.summary(logits)
        memory = self.glance.remember(patches, summary) if self.glance else None
        return Seen(pyramid, logits, self.connector(patches, summary), memory)


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
