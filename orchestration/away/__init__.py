"""Machines that do not share the run folder: what their training processes write comes to it through Ray."""
