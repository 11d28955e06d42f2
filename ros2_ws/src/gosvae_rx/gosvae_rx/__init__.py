"""The receiver: token packets in, semantic masks out."""
