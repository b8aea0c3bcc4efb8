"""Probabilities as bytes, as networks give them: maps and masks are uint8, 0 to LEVELS."""

# Stands for probability 1.
LEVELS = 255
