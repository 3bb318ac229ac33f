"""S16: chaotic targets."""
