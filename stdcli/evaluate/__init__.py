"""Measuring results: grids of contents, styles and methods, reports, comparisons."""
