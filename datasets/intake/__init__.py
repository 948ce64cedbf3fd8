"""What a user names -> sources, each once, by name, with its text.

inputs --(sources, prefixes, tars)--> files, objects, members of a tar
       --(lists, list_rows, list_folders, corpora)--> rows that name files and pieces; Panda-70M's and Emilia's
sidecars, source_text   text beside a source; that and a list's as one
at_hand                 a source's bytes as a local file
"""
