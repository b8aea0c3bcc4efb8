"""Nuclei instance segmentation: what every part of the project and every caller shares."""
