"""The transmitter: camera frames in, token packets out."""
