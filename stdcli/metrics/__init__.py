"""Measures of style, content, steadiness and looks: one file each."""
