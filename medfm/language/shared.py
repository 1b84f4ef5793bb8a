"""One base language model in memory for several adapters, each switched on when it is asked."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from torch import nn

from medfm.language.base import load_language
from medfm.language.quiet import adapting

__all__ = ["SharedLanguage", "share_language"]

_LOCK = threading.RLock()  # adapters of one base answer one after the other
_BASES: dict[str, Any] = {}


class SharedLanguage(nn.Module):
    """The language model with one of its adapters: as if it were merged, but it costs only the adapter's memory.

    PEFT keeps all adapters of a base beside each other; a forward pass switches to its own first.
    """

    def __init__(self, peft: Any, name: str) -> None:
        super().__init__()
        self.peft, self.name = peft, name

    def forward(self, *args: Any, **options: Any) -> Any:
        with _LOCK:
            if self.peft.active_adapter != self.name:
                self.peft.set_adapter(self.name, inference_mode=True)
            return self.peft(*args, **options)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("peft"), name)


def share_language(base: str, folder: Path, *, dtype: Any) -> tuple[SharedLanguage, Any, Path]:
    """The base, loaded once a process, with the PEFT adapter in `folder`; its tokenizer and the base's folder."""
    from peft import PeftModel

    with _LOCK, adapting():
        name = "own_" + str(folder.resolve()).encode().hex()  # module names hold no dots
        if base not in _BASES:
            language, tokenizer, where = load_language(base, dtype=dtype)
            _BASES[base] = PeftModel.from_pretrained(language, str(folder), adapter_name=name).eval(), tokenizer, where
        peft, tokenizer, where = _BASES[base]
        if name not in peft.peft_config:
            peft.load_adapter(str(folder), adapter_name=name)
            peft.eval()
        for module in peft.modules():  # else transformers draws new numbers for what PEFT has put in
            module._is_hf_initialized = True
        return SharedLanguage(peft, name).eval(), tokenizer, where
