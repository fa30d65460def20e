"""Pictures and video: decoding, encoding, sizes, embedded recipes."""
