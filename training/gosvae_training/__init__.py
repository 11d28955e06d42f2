"""Offline training of GOS-VAE model bundles (the only package that imports torch)."""
