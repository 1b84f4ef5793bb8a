"""First and second answer about one scan, beside the plain ways: a new process, encoding again, no key/value cache."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import in_process, process, show

import medfm
from medfm.assets import root
from medfm.model import MedFM

QUESTIONS = [
    "What modality is this?",
    "Which part of the body is shown?",
    "Is the liver in view?",
    "Is there a lesion?",
]
FIRST = """
import sys, time
start = time.perf_counter()
import medfm
model = medfm.load(sys.argv[2])
medfm.ask(model, medfm.Scan.read(sys.argv[1]), "What modality is this?")
seconds = time.perf_counter() - start
"""


def each(ask: Callable[[str], object]) -> float:
    """Median seconds per question."""
    times = []
    for question in QUESTIONS:
        start = time.perf_counter()
        ask(question)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.inference_mode()
def without_cache(model: MedFM, scan: medfm.Scan, question: str) -> str:
    """What `transformers` does when handed everything each time: encode, concatenate, generate(use_cache=False)."""
    prepared = model.preparation(scan)
    seen = model.vision(prepared.x[None], prepared.spacing[None])
    words, prompt, tokenizer = model.get_input_embeddings(), model.prompt, model.tokenizer
    head, facts = (words(torch.tensor([i])) for i in (prompt.head(tokenizer), prompt.facts(tokenizer, prepared.facts)))
    asked = model.asked([question], model.shares(seen.memory, [question]))[0][None]
    stop = [*prompt.stop(tokenizer), tokenizer.eos_token_id]
    options = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": stop, "pad_token_id": tokenizer.eos_token_id}
    said = model.language.generate(
        inputs_embeds=torch.cat([head, seen.tokens, facts, asked], 1), use_cache=False, **options
    )
    return str(tokenizer.decode(said[0], skip_special_tokens=True)).strip()


def main() -> None:
    """Print the table; the answers of all ways must agree."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--adapter", default="default")
    options.add_argument("--file", type=Path, default=root() / "apps" / "chat" / "demo" / "abdomen_mr.dcm")
    chosen = options.parse_args()
    first, peak, _ = in_process(FIRST, str(chosen.file), chosen.adapter)
    command = shutil.which("medfm") or sys.exit("medfm is not installed: pip install .")
    typed = process([command, "ask", str(chosen.file), QUESTIONS[0], "--adapter", chosen.adapter], repeats=1)

    model, scan = medfm.load(chosen.adapter), medfm.Scan.read(chosen.file)
    kept = medfm.ask_many(model, scan, QUESTIONS)
    second = each(lambda question: medfm.ask(model, scan, question))
    again = each(lambda question: medfm.ask(model, fresh(model, scan), question))
    plain = each(lambda question: without_cache(model, scan, question))
    for question, answer in zip(QUESTIONS, kept, strict=True):
        if (other := without_cache(model, scan, question)) != answer.text:
            print(f"{question} cached: {answer.text!r}, not cached: {other!r}")
    rows = [
        ("encode and generate without a cache, each time", plain, None),
        ("a further question, scan encoded again", again, None),
        ("a further question, scan kept", second, None),
        ("first answer, imports and loading included", first, peak),
        ("the same as a command, from typing to the prompt", typed, None),
    ]
    show(f"one question about {chosen.file.name}", rows, against=0)


def fresh(model: MedFM, scan: medfm.Scan) -> medfm.Scan:
    """Make the model forget the scan."""
    model._readings.clear()
    return scan


if __name__ == "__main__":
    main()
