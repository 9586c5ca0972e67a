"""Find the program in a model's markdown response, and return it exactly as it was written."""

import re
from typing import NamedTuple

REASONING = re.compile(r"\s*<think(?:ing)?>")
END_OF_REASONING = re.compile(r"(?<![\"'`])</think(?:ing)?>")
FENCE = re.compile(
    r"(?P<quotes>(?:[ \t]*>)*)(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?)"
    r"(?P<marks>`{3,}(?!`)|~{3,}(?!~))[ \t]*(?P<info>[^`]*)$"
)
TAG = re.compile(r"\w[\w+#.-]*")
GLUED_FENCE = re.compile(r"(?P<words>[^`]+)(?P<marks>`{3,})(?P<info>[\w+#.-]*)$")

# Tags of blocks that stand beside a program, and tags that name the same language.
ASIDE = re.compile(
    r"(sh|bash|shell|zsh|console|terminal|cmd|powershell|te?xt|plain(text)?|output|log|json|ya?ml"
    r"|toml|xml|csv|ini|diff|markdown|md|mermaid|html|css)$"
)
SAME_LANGUAGE = [
    {"c#", "cs", "csharp"},
    {"c++", "cpp"},
    {"f#", "fsharp"},
    {"javascript", "js"},
    {"typescript", "ts"},
    {"python", "py"},
    {"bash", "sh", "shell"},
    {"go", "golang"},
]

# What the heading or the line before a block may call it.
HEADING = re.compile(r"#{1,6} |\*\*")
COMPLETE = re.compile(
    r"\b(completed?|full|final|corrected|fixed|updated|revised|improved|optimi[sz]ed|together)\b",
    re.I,
)
EXAMPLE = re.compile(
    r"\b(usage|(use|call) (it|(the|this) (function|class))|try (it|this)|demo|samples?|tests?"
    r"|testing|testbench|benchmark|assum\w+|suppose|syntax|general form|original|mistake"
    r"|pseudo-?code|brute[- ]force)\b|^\W*examples?( \w+)?\W*$",
    re.I | re.M,
)

# What code looks like, in any language.
DEFINITION = (
    r"(?:def|class|function|fn|func|fun|sub|subroutine|proc|procedure|impl|module|namespace|program"
    r"|defmodule|macro)\b"
)
DEFINES = re.compile(
    rf"^[ \t]*(\w+ ){{,4}}{DEFINITION}\s+\w|^[ \t]*\(def|^let (rec )?\w+ [\w ]+=|^\w+ ::|\) :- "
    r"|[=-] ?(async )?(function|lambda|fn|->)[\s(]|= ?(async )?(\w+|\([^()\n]*\)[^=;\n]{,60}) ?=>"
    r"|^(?!return|else|await|new|julia|echo|print|puts|say)"
    r"\w[\w<>\[\],*& ]*[ *&]\w+\([^;\n]*($|=>|\{)"
    r"|^[\w.!]+\([^=\n]*\) (=|->) |^\w+:$",
    re.M | re.I,
)
IMPORT = re.compile(r"\s*(import|from|using|#include|require|library|use|package|open)\b")
STATEMENT = (
    rf"\s*({DEFINITION}|(import|from|using|#include|#lang|package|public|const|let|var|val|local|my"
    r"|print|puts|echo|end|else|return|if|for|while|do|done|fi|SELECT|FROM|WHERE|JOIN|GROUP)\b)"
)
CODE_ON_FENCE_LINE = re.compile(STATEMENT + r"[ (]*[\w<\"'{]")
CODE = re.compile(
    r".*[;{(\[=\\]\s*$|\s{2,}\S|\s*[\w.:]+(\(|\s*(<-|[-+*/]?=))|\s*([{}()\]\\]|<[\w!/?])|"
    + STATEMENT
)
COMMENT = re.compile(r"\s*([#!]([#'\s]|$)|//|--|;|%)")
# Docstrings and block comments hold sentences; one that is never closed ends with the text.
QUOTED_TEXT = re.compile(
    r"(\"{3}|'{3}).*?(\1|\Z)|^[ \t]*(/\*|--\[\[|\{-|\(\*|<!--).*?(\*/|\]\]|-\}|\*\)|-->|\Z)",
    re.S | re.M,
)
PROSE = re.compile(
    r"(\d+\. |[-*] )?[\"*`]*([A-Z][a-z']|I |A )[\w'*`]*,?"
    r"(( \S+){2,}[.:!?]\)?[*`]*$|( [a-z][\w'`,-]*){4})|\*\*[A-Z]|Step \d"
)
PLACEHOLDER = re.compile(r"\s*(\W*(your|the|insert|add|write|put)\b.*\bcode\b.*|\W*)$", re.I)
COMMAND = re.compile(
    r"\s*[$!%]? ?(sudo |python3? -m )?((pip3?|uv|conda|npm|npx|yarn|pnpm|cargo|brew|apt|apt-get|gem"
    r"|luarocks|raco|dotnet|mvn|gradle|make|gcc|g\+\+|javac|rustc|ghc|gfortran|pytest|git|docker|cd"
    r"|mkdir|go (get|run|mod|test))\s|(python3?|node|julia|lua|ruby|java|Rscript) \S+\.\w+|\./\S+$)"
)


class Block(NamedTuple):
    """A fenced block: its tag in lower case, its text, and the heading and line before it."""

    tag: str
    text: str
    announcement: str


def extract_code_from_markdown(markdown: str, lang: str = "") -> str | None:
    """Return the program in a response as it was written, without the fence lines; None if none.

    lang is the language asked for, in free text ("C#", "JavaScript using Node 24").

    >>> extract_code_from_markdown("Here it is:\\n```lua\\nreturn 1\\n```\\nRun it!")
    'return 1'
    >>> extract_code_from_markdown("```c\\n0;\\n```\\n```cpp\\n1;\\n```", lang="C++")
    '1;'
    >>> extract_code_from_markdown("I cannot help with that.")
    """
    text = without_reasoning(markdown.replace("\r\n", "\n"))
    blocks = fenced_blocks(text) or unfenced_program(text)
    if [block.tag for block in blocks] == ["markdown"]:  # some models wrap their whole answer
        blocks = fenced_blocks(blocks[0].text) or blocks
    blocks = [block for block in blocks if not is_no_program(block.text, lang)]
    return the_program(blocks, lang) if blocks else None


def without_reasoning(text: str) -> str:
    """Cut a leading <think> part, also one that lacks its opening tag; all, if it never ends."""
    end = END_OF_REASONING.search(text)
    if REASONING.match(text):
        return text[end.end() :] if end else ""
    if end is None:
        return text
    programs = [block.text for block in fenced_blocks(text)]
    if is_code(text[: end.start()]) or any(END_OF_REASONING.search(code) for code in programs):
        return text
    return text[end.end() :]


def fenced_blocks(text: str) -> list[Block]:
    """Split off the fenced blocks, of which the last may be unclosed."""
    blocks: list[Block] = []
    prose: list[str] = []
    fence = None
    for line in text.split("\n"):
        if fence is None:
            fence = opening_fence(line)
            prose.append(fence.words if fence else line)
        elif fence.is_closed_by(line):
            blocks.append(fence.block(prose))
            fence, prose = None, []
    if fence is None:
        return blocks
    last, before = fence.block(prose), "\n".join(prose)
    if not last.tag and is_code(before):
        return [*blocks, Block("", before.strip(), "")]
    return [*blocks, last] if last.tag or not blocks or is_code(last.text) else blocks


def opening_fence(line: str) -> "Fence | None":
    if "```" not in line and "~~~" not in line:
        return None
    match = FENCE.match(line) or GLUED_FENCE.match(line)
    return Fence(**match.groupdict()) if match else None


class Fence:
    """An opening fence, and the lines after it as far as the fence that closes it."""

    def __init__(self, marks: str, info: str, quotes: str = "", indent: str = "", words: str = ""):
        tag, *rest = re.split(r"[\s:{,]+", info.strip(), maxsplit=1)
        self.code = next((code for code in (info, *rest) if CODE_ON_FENCE_LINE.match(code)), "")
        self.tag = "" if self.code == info else tag.lower()
        self.marks, self.words = marks, words
        self.quotes = re.compile(rf"([ \t]*>){{,{quotes.count('>')}}}")
        self.indent = re.sub(r"\S", " ", indent)
        self.lines: list[str] = []
        self.depth = 1

    def is_closed_by(self, line: str) -> bool:
        """Take in one more line; a fence with a tag opens a block inside the block."""
        line = self.quotes.sub("", line, count=1)
        start = line.lstrip(" \t")
        if start.startswith(self.marks):
            info = start.lstrip(self.marks[0]).strip()
            if len(line.removesuffix(start).expandtabs(4)) <= len(self.indent) + 3:
                self.depth += 1 if TAG.fullmatch(info) else -1
        if self.depth:
            self.lines.append(line)
        return not self.depth

    def block(self, prose: list[str]) -> Block:
        # Some models indent only the fence: what goes is what all lines share with it.
        widths = (len(line) - len(line.lstrip()) for line in self.lines if line.strip())
        margin = min([len(self.indent), *widths])
        text = "\n".join([self.code, *(line[margin:] for line in self.lines)]).strip("\n")
        if self.depth:
            text = text.removesuffix(self.marks)
        said = [line for line in prose if line.strip()]
        return Block(self.tag, text, "\n".join([*filter(HEADING.match, said)][-1:] + said[-1:]))


def unfenced_program(text: str) -> list[Block]:
    """The whole text where it is code, or all after an introduction that ends with a colon."""
    for candidate in (text.strip(), re.split(r"(?m)^[A-Z].*:$", text)[-1].strip("\n")):
        if is_code(candidate):
            return [Block("", candidate, "")]
    return []


def is_code(text: str) -> bool:
    """Whether at least half of the lines look like code and none reads as a sentence."""
    lines = QUOTED_TEXT.sub("", text).split("\n")
    lines = [line for line in lines if line.strip() and not COMMENT.match(line)]
    looks = sum(1 for line in lines if CODE.match(line))
    return 2 * looks >= len(lines) > 0 and not any(PROSE.match(line) for line in lines)


def is_no_program(text: str, lang: str) -> bool:
    """Whether a text is empty, a placeholder, or only commands that install or run something."""
    lines = [line for line in text.split("\n") if line.strip()]
    code = [line for line in lines if not COMMENT.match(line)] or lines
    if not any(name in lang.lower() for name in ("bash", "shell")):
        code = [line for line in code if not COMMAND.match(line)]
    return all(PLACEHOLDER.match(line) for line in code)


def the_program(blocks: list[Block], lang: str) -> str:
    """Narrow the blocks down by one preference after another, none of which excludes them all."""
    words = set(re.split(r"[\s,;()/]+", lang.lower())) - {""}
    tags = words.union(*(names for names in SAME_LANGUAGE if names & words))
    blocks = [b for b in blocks if b.tag in tags] or blocks
    blocks = [b for b in blocks if not ASIDE.match(b.tag) or b.text.startswith("#!")] or blocks
    pieces = [b for b in blocks if not EXAMPLE.search(b.announcement)] or blocks
    if are_pieces(pieces):
        return "\n\n".join(b.text for b in pieces)
    blocks = [b for b in blocks if DEFINES.search(b.text)] or blocks
    blocks = [b for b in blocks if b.tag] or blocks
    blocks = [b for b in blocks if not EXAMPLE.search(b.announcement)] or blocks
    longest = max(blocks, key=lambda b: len(b.text))
    blocks = [b for b in blocks if b is longest or is_rival(b, longest)]
    complete = [b for b in blocks if COMPLETE.search(b.announcement)]
    return complete[-1].text if complete else blocks[0].text


def are_pieces(blocks: list[Block]) -> bool:
    """Whether the first block holds nothing but imports, and no other repeats them."""
    imports, *others = (block.text for block in blocks)
    only_imports = all(IMPORT.match(line) for line in imports.split("\n") if line.strip())
    return bool(others) and only_imports and not any(imports in text for text in others)


def is_rival(block: Block, longest: Block) -> bool:
    """Whether a block may be the program although another is longer."""
    if 3 * len(block.text) < len(longest.text) or block.tag != longest.tag:
        return False
    return f"{block.text}\n" not in f"{longest.text}\n"
