"""Boxes, slices and grey values of volumes: arrays in, arrays out; no path, no format."""
