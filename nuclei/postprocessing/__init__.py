"""From the answers of a network to labelled and measured nuclei."""
