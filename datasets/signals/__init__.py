"""What is measured of a clip, and what follows from it.

measures, thumbnails   loudness, motion; small pictures
scenes, faces, lag     where scenes begin; who is seen; how late the sound is, and how sure that is
duplicates             copies, by fingerprints
filters                pure rules: is a clip of use, and why not
"""
