"""Where the shipped folders are, and base weights fetched once into the user's cache."""

from medfm.assets.eyes import eye_digest, eye_structures, eye_tensors, write_eye
from medfm.assets.places import adapter_folder, cache_dir, home_dir, kind_of, own_adapters, root, shipped_adapters
from medfm.assets.tensors import readable, write_tensors
from medfm.assets.weights import base_weights, hub_id, weights_here, weights_names

__all__ = [
    "adapter_folder", "base_weights", "cache_dir", "eye_digest", "eye_structures", "eye_tensors", "home_dir", "hub_id",
    "kind_of", "own_adapters", "readable", "root", "shipped_adapters", "weights_here", "weights_names", "write_eye",
    "write_tensors",
]  # fmt: skip
