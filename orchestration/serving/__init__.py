"""Streams over HTTP while they are generated.

command -> http_server -> guard -> api (stream_request, limits) -> studio, or replicas of one -> viewer_batches -> viewer
"""
