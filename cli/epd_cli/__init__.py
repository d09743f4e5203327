"""The epd command: runs, shows and changes a cluster."""
