"""A dataset to be looked at: clips as they come back from their latents, many of them at a glance, one next to its source."""
