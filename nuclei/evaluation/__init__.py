"""The quality of segmentations: scores, comparisons, reports."""
