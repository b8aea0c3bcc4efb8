"""Processes of this machine: children, ports, back-off."""
