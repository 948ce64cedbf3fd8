"""Clips -> latents, in this process or by a pool of actors: few GPUs for many callers.

encoders --actor_pool (actor_queue, pool_worker)--> codecs: embedded, or pretrained_codecs from a pretrained_folder
"""
