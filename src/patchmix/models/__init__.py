"""Encoders (timm Vision Transformers), heads, and loading them from what users have."""
