"""Where the shipped folders are, and base weights fetched once into the user's cache."""

from medfm.assets.places import adapter_folder, cache_dir, root
from medfm.assets.weights import base_weights, hub_id, weights_names

__all__ = ["adapter_folder", "base_weights", "cache_dir", "hub_id", "root", "weights_names"]
