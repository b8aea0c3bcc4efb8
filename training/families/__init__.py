"""One module for each model family: its network and its recipe."""
