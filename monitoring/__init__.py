"""Looking at the running service: rules, dashboards and the page of `make monitor`."""
