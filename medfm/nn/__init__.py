"""Layers that work on pictures and volumes alike; all take and give (B, C, D, H, W)."""
