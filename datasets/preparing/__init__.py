"""The stages of `data prepare`, in the order in which a source walks; `datasets/pipeline` is their list.

growth -> look (notes) -> measuring -> making (cutting, judging, scribing) -> commit -> audit
spread, share, shared   on how many processes, beside whom, and on which machines
trials                  which sources end their worker
outputs, lease          where a dataset goes; one job at a time below a prefix in S3
"""
