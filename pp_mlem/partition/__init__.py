"""Structures of log Z, one file each: factors in, log Z out, differentiable."""
