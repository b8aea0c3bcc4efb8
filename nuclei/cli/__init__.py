"""The command line: the one place that knows all parts. Nothing imports it."""
