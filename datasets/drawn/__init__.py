"""Talking characters, drawn with exactly known sync, and how sync is measured on them."""
