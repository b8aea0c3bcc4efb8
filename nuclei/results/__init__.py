"""What a segmentation is: the nuclei of a frame, their features and places."""
