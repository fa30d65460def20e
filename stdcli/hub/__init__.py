"""Sharing students, models and banks on the Hub: what of them, described how, and getting them back."""
