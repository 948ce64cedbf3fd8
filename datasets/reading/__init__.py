"""From shards to batches: (seed, epoch, cursor) -> sample ids -> tensors.

order, buckets -> loader -> prefetch     one global order; clips that are alike together; batches; the next ones ahead
members                                  the datasets of a mix
range_shard, piece_cache                 shards that stay in S3; what a machine keeps of them
"""
