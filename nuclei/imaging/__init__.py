"""From image files to frames, and from frames to tiles."""
