"""From a frame to nuclei: tiles, graphs, engines and contracts."""
