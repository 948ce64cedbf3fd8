"""Metrics that need the weights of others: one file a judge, `judges.py` lists them, `weights.py` says where their weights are."""
