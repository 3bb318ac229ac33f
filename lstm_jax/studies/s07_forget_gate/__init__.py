"""S7: the forget gate and its bias."""
