"""A napari plugin that segments what is shown through a running gateway; needs the client alone."""
