"""S3: clipping and the penalty Omega."""
