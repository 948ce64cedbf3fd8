"""Clips that go to training as they are decoded, without being prepared first.

streaming --packed_clip--> streamed_clips (a rank's batches)      stream_account: what came of each source
"""
