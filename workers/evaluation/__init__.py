"""What generated clips are judged by: metrics of a clip and of sets of clips, and how sure their figures are. No Ray in it."""
