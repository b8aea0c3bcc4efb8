"""The result of a segmentation: the nuclei of a frame, their features and coordinates."""
