"""A run as one self-contained HTML page.

run_reader -> sections, course, evaluation, normal (against a reference) -> tiles, words, plots, embed (films) -> page
"""
