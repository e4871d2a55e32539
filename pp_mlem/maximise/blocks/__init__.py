"""The kinds of M-step blocks: one file each, listed in `maximise/registry.py`."""
