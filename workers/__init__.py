"""What one process does: the training loop, the engine, the rollout actor, checkpoints."""
