"""One file a claim: each measures it and prints one JSON line."""
