"""Images and labels: read, converted, split, sampled, augmented."""
