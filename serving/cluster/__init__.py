"""A deployment on Kubernetes: rendered from k8s/, compared, applied, watched."""
