"""Measures rates, agreement and times of any profile."""
