"""How good a segmentation is: scores, comparisons, reports."""
