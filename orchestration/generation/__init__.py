"""Clips from a trained model.

opened_model + prompts -> playing (chunk by chunk) -> generating (one file), batch (many, by actors)
provenance   what a file says of itself            samples   held-out clips of a run, and their sync
"""
