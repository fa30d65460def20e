"""The Hub, as files: fetched, announced, compared; it knows no model."""
