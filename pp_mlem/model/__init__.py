"""The user's handle: a program bound to its data."""
