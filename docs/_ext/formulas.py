"""Formulas as the docstrings of models write them, z_n ~ Categorical(w), as LaTeX."""

from __future__ import annotations

import re

GREEK = set(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split()
)
FUNCTIONS = {"exp", "log", "sin", "cos", "min", "max", "tanh"}
SIGNS = {
    "~": r"\sim ", "<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "->": r"\to ", "...": r"\ldots ",
    "..": r"\ldots ", "*": r"\,", "|": r"\mid ", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&",
    "#": r"\#", "$": r"\$", "_": r"\_", "\\": r"\backslash ", "`": "",
}  # fmt: skip
TOKEN = re.compile(r"\s+|[A-Za-z]+|\d+(?:\.\d+)?|<=|>=|!=|->|\.\.\.?|.", re.S)


def is_formula(paragraph: str) -> bool:
    """Whether a paragraph of a docstring states how variables are distributed, or what they are: a variable,
    then ~, = or ->, and no sentences."""
    found = re.match(r"([\w(].{0,60}?) (?:~|=|->) ", paragraph)
    if found is None or re.search(r"[\w)]\.\s+[A-Z]", paragraph):
        return False
    words = re.findall(r"(?<!\S)[A-Za-z]{2,}(?!\S)", found[1])
    return len([w for w in words if w not in GREEK]) <= 1


def latex(paragraph: str) -> str:
    """A paragraph of statements as the body of a display: a line each, aligned at what they say.

    Statements are parted by a comma with two spaces, or with the end of a line. A remark in words
    after a statement has a line of its own.
    """
    remark = r"(?<=\)), (?=[A-Za-z]+ [a-z]+ )|, (?=(?:else|otherwise|and) )"
    parted = re.sub(remark, ",\n", paragraph.strip())
    statements = [s for s in re.split(r"(?<=,)(?:\s*\n\s*|\s{2,})", parted) if s]
    rows = [aligned(line(s)) for s in statements]
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def aligned(statement: str) -> str:
    """With the mark of alignment before what it says; a remark begins a little after it."""
    there = [p for sign in (r"\sim ", "=", r"\to ") if (p := statement.find(sign)) >= 0]
    if not there:
        return rf"&\quad {statement}"
    return f"{statement[: min(there)]}&{statement[min(there) :]}"


def line(text: str) -> str:
    """One statement."""
    return Writer(TOKEN.findall(re.sub(r"\s+", " ", text))).until(None).strip()


class Writer:
    """Reads tokens from left to right, and writes LaTeX."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def until(self, end: str | None) -> str:
        """What stands before a closing bracket, which is taken too."""
        parts: list[str] = []
        while self.peek():
            token = self.take()
            if token == end:
                break
            parts.append(self.part(token, parts))
        return "".join(parts)

    def part(self, token: str, before: list[str]) -> str:
        if token.isspace():
            return self.space(before)
        if token.isalpha():
            return self.name(token)
        if token == "(":
            return f"({self.until(')')})"
        if token == "[":
            return f"[{self.until(']')}]"
        if token == "^":
            return "^{" + self.script() + "}"
        return SIGNS.get(token, token)

    def space(self, before: list[str]) -> str:
        """Words stay apart, and factors a little."""
        last, after = before[-1] if before else "", self.peek()
        if not (last and after) or {last.strip()[-1:], after[:1]} & set("+-/=~<>") or "sim" in last:
            return ""
        if last.startswith(r"\text{") or self.is_word(after):
            return r"\ "
        if last.endswith(","):
            return r"\ "
        joins = bool(last) and (last[-1] in ")}]'" or last[-1].isalnum())
        return r"\," if joins and (after.isalnum() or after == "(") else ""

    def is_word(self, token: str) -> bool:
        """More than one letter, and no symbol of mathematics."""
        return token.isalpha() and len(token) > 1 and token not in GREEK | FUNCTIONS | {"sqrt"}

    def name(self, token: str) -> str:
        """A variable with its index, a distribution, a function, or a word."""
        if token == "sqrt" and self.peek() == "(":
            self.take()
            return r"\sqrt{" + self.until(")") + "}"
        if token in FUNCTIONS:
            return f"\\{token} "
        if token[0].isupper() and self.is_word(token):
            return r"\mathrm{" + token + "}" if self.peek() == "(" else r"\text{" + token + "}"
        if token == "a" and self.peek(0) == " " and self.is_word(self.peek(1)):
            return r"\text{a}"  # the article
        indices = []
        if re.fullmatch(r"\d+", self.peek()):  # b0
            indices.append(self.take())
        star = self.peek() == "*" and self.peek(1) == "_"  # y*_i
        self.place += star
        if self.peek() == "_" and (self.peek(1).isalnum() or self.peek(1) == "{"):
            self.take()
            indices.append(self.script())
        if self.peek() == "[":
            self.take()
            indices.append(self.until("]"))
        base = f"\\{token}" if token in GREEK else token
        if self.is_word(token):
            base = r"\text{" + token + "}"
        if not indices:
            return base + " " if base.startswith("\\") and not base.endswith("}") else base
        return base + "^{*}" * star + "_{" + ",".join(indices) + "}"

    def script(self) -> str:
        """An index or an exponent: in braces, a few letters and digits, or a word."""
        if self.peek() == "{":
            self.take()
            return self.until("}")
        token = self.take() if self.peek() else ""
        if token in GREEK:
            return f"\\{token}"
        if len(token) > 2 and token.isalpha():
            return r"\text{" + token + "}"
        while re.fullmatch(r"\d+", self.peek()) and token.isalpha():
            token += self.take()
        return token
