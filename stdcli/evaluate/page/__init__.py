"""The HTML report in parts: markup, numbers, plots, pictures, and the page they go into."""
