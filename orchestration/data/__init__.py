"""The verbs of `data`: what is said (commands), what is done (verbs), a page about a dataset (page)."""
