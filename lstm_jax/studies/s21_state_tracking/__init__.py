"""S21: state tracking."""
