"""Exponential families, one file each; `family_of` finds the one that a distribution belongs to."""

from pp_mlem.families.base import Entries, Family, natural_supports
from pp_mlem.families.registry import FAMILIES, family_of, register

__all__ = ["FAMILIES", "Entries", "Family", "family_of", "natural_supports", "register"]
