"""What a dataset is: Arrow shards, the account of its sources, the table of its clips, and the manifest that names them.

records -> part_writer (parts, statistics) -> shards, arrow_file     clips as rows; written in parts, each with a receipt
account, clip_table                                                  a line for each source; a row for each clip
manifest                                                             written last: the commit
parquet                                                              all of it for others
"""
