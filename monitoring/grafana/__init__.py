"""The dashboards as Grafana reads them, and how it finds them."""
