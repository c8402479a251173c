"""Annotated volumes into training data."""
