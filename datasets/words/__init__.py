"""Words and captions where a source has none: networks of a folder, or a user's own in their place."""
