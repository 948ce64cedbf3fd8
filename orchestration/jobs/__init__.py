"""Runs as jobs of a Ray cluster: submit, look at, stop, resume.

here:    command -> submit -> spec, wheel, lock, secrets -> cluster (Ray's Jobs API over HTTP)
there:   probe (can this run start here?), then entry -> `mutual-forcing train`
"""
