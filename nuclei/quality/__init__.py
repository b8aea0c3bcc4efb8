"""How good a frame and its segmentation look, without knowing the truth."""
