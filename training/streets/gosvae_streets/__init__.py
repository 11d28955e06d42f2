"""Procedural street scenes, rendered with Blender and labelled exactly."""
