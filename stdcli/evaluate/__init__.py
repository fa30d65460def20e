"""Measuring results, comparing methods, and the report."""
