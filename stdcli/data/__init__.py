"""Folders of pictures and clips: found, told apart by content, split into training and held out."""
