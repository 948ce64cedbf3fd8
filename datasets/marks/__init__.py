"""What a film says of itself: in words (tags), as a hidden mark (watermark), signed (credentials)."""
