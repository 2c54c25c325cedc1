"""Building blocks that know nothing of configurations, data or training: they take plain numbers and tensors."""
