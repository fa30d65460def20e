"""Building a trajectory bank: data in, teacher paths out."""
