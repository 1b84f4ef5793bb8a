"""Recipes small enough for a test: the real objectives on a narrow encoder and the phantom rows."""

from __future__ import annotations

from pathlib import Path

ENCODER = {"name": "hybrid", "width": 96, "depth": 1, "heads": 4}


def eye_recipe(rows: Path, language: Path, **options: object) -> dict[str, object]:
    objective = {
        "name": "grounded", "model": {"encoder": ENCODER, "language": str(language), "glance": 2},
        "mask_values": {70: "Disk"}, "batch": 3, "imagenet": False, "prepare": {"size": 64, "max_slices": 8},
    }  # fmt: skip
    data = {"train": [str(rows)], "hold": 0.25}
    return {"objective": objective, "data": data, "train": {"epochs": 1, "rate": 1e-3, **options}}


def glance_recipe(eye: Path, rows: Path, language: Path, **options: object) -> dict[str, object]:
    model = {"language": str(language), "vision": str(eye), "encoder": ENCODER}
    objective = {"name": "glance", "batch": 3, "views": 2, "model": model}
    return {"objective": objective, "data": {"train": [str(rows)], "hold": 0.25}, "train": {"epochs": 1, **options}}


def adapter_recipe(eye: Path, rows: Path, language: Path, **options: object) -> dict[str, object]:
    objective = {
        "name": "instruct", "batch": 3, "checked": 2,
        "model": {
            "language": str(language), "vision": str(eye),
            "encoder": ENCODER,
            "lora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        },
    }  # fmt: skip
    data = {"train": [str(rows)], "hold": 0.25}
    return {"objective": objective, "data": data, "train": {"epochs": 1, "rate": 1e-3, **options}}
