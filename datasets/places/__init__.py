"""Disks and S3: where files are, how they are written whole, and who may write.

storage      paths, atomic files, clients of S3        store       one interface of a folder and a prefix in S3
key_ranges   listing a prefix by ranges of keys        scratch     folders that go with their process
writable     does a place take what is written         lock        one process in a folder
fault_switch calls that fail on purpose, for a while
"""
