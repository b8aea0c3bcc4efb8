"""Stacks, plates and slides: files that hold many frames, or one that no memory holds."""
