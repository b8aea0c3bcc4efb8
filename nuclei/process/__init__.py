"""Processes of this machine: children, ports, signs of life, back-off, work in the background."""
