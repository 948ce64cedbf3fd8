"""What a run will need on a cluster, reckoned before it starts: memory, time, layout, traffic, cost. Arithmetic alone: no Ray, no GPU."""
