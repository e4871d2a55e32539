"""Names that netCDF and ArviZ can have, for variables and dims."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote

LONGEST = 200  # bytes of a variable's name; netCDF takes 256, dimensions add to it


def variable_names(sites: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """The variable of each site: its own name, or where netCDF and ArviZ cannot have that ("a/b",
    "chain", the dimension of another site) the name percent-encoded as in an address."""
    sites = list(sites)
    reserved = {"chain", "draw", *taken}
    variables: dict[str, str] = {}
    for site in sites:
        if not site.isascii() and unicodedata.normalize("NFC", site) != site:
            name = quote(site, safe=" []().,:;+-=~@$&'!*")
        else:
            name = re.sub(r"[%/\\\x00-\x1f\x7f]", lambda m: quote(m[0], safe=""), site)
        name = re.sub(r" $", "%20", name)
        name = re.sub(r"^(?=%)|^[^\w\x80-\U0010ffff%]", lambda m: "_" + quote_all(m[0]), name)
        owner = re.fullmatch(r"(.*)_dim_\d+", site)
        if name in reserved or (owner and owner[1] in sites):
            name = name[:-1] + quote_all(name[-1])
        if len(name.encode()) > LONGEST:
            name = f"{name.encode()[:LONGEST].decode(errors='ignore')}~" + hashlib.sha256(
                site.encode()).hexdigest()[:16]  # fmt: skip
        variables[site] = name
    return variables


def quote_all(text: str) -> str:
    """Every byte percent-encoded, letters too."""
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))
