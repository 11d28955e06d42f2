"""Benchmarks of bundles, of other codecs and of the whole system over DDS."""
