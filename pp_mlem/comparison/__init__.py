"""Fits side by side: comparison, selection, experiments."""
