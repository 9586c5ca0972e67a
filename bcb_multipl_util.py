"""Find the program in a model's markdown response, and return it exactly as it was written."""

import re
from typing import NamedTuple

REASONING = re.compile(r"\s*<think(?:ing)?>")
END_OF_REASONING = re.compile(r"(?<![\"'`])</think(?:ing)?>(?![\"'`])")
PREFIX = re.compile(r"(?:[ \t]*>)*[ \t]?(?:[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+(?=```|~~~))?")
FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
GLUED = re.compile(r"(?P<indent>)[^`]+(?P<marks>`{3,})(?P<info>[\w+#.-]+)$")

# Tags of blocks that stand beside a program; and other tags than its name that a language goes by.
ASIDE = re.compile(
    r"(sh|bash|shell|zsh|console|terminal|cmd|bat|powershell|shell-session|te?xt|plain(text)?|output"
    r"|log|json|ya?ml|toml|xml|csv|ini|diff|markdown|md|mermaid|html|css)$"
)
ALSO_TAGGED = {
    **{"c#": "cs csharp", "c++": "cpp cc cxx", "f#": "fs fsharp", "javascript": "js jsx node"},
    **{"typescript": "ts tsx", "python": "py python3", "bash": "sh shell", "rust": "rs"},
    **{"julia": "jl", "racket": "rkt scheme", "haskell": "hs", "ruby": "rb", "go": "golang"},
    **{"ocaml": "ml", "perl": "pl", "kotlin": "kt", "fortran": "f90 f95", "matlab": "octave"},
    **{"shell": "sh bash", "html": "htm", "c": "h", "r": "rscript", "d": "dlang"},
}
ANNOUNCED = re.compile(
    r"\b(complete|completed|full|final|corrected|entire|whole|updated|combined|together)\b", re.I
)
IMPORT = re.compile(r"\s*(import|from|using|#include|require|library|use|package|open)\b")
COMMAND = re.compile(
    r"\s*(\$ |(sudo |python3? -m )?(pip3?|npm|npx|yarn|cargo|brew|apt|apt-get|conda|gem|luarocks)"
    r" |go (get|run|mod) |python3? \S+\.py|node \S+\.js|julia \S+\.jl|lua \S+\.lua|Rscript )"
)
PLACEHOLDER = re.compile(r"\s*(\W*(your|the|insert|add|write|put)\b.*\bcode\b.*|\W*)$", re.I)
COMMENT = re.compile(r"\s*(#(?!include)|//|--|;|%|/?\*|\"\"\")")
CODE = re.compile(
    r"[;{}()\[\]=,]\s*$|\s{2,}\S|\s*[\w.:]+(\(|\s*(<-|[-+*/]?=))|\s*[})(\]]"
    r"|\s*(end|else|return|def|class|import|from|using|local|function|func|fn|public|const|let|var"
    r"|package|#include|begin|print|SELECT|CREATE|INSERT)\b"
)
PROSE = re.compile(r"(#{1,6} |\d+\. |[-*] )?[\"*`]*[A-Z][\w'*`]*,?( \S+){3,}[.:!?]\)?[*`]*$")


class Block(NamedTuple):
    """A fenced block: its tag in lower case, its text, and the prose since the block before it."""

    tag: str
    text: str
    announcement: str


def extract_code_from_markdown(markdown: str, lang: str = "") -> str | None:
    """Return the program in a response as it was written, without the fence lines; None if none.

    lang is the language asked for, in free text ("C#", "JavaScript using Node 24").

    >>> extract_code_from_markdown("Here it is:\\n```lua\\nreturn 1\\n```\\nRun it!")
    'return 1'
    >>> extract_code_from_markdown("I cannot help with that.")
    """
    text = without_reasoning(markdown.replace("\r\n", "\n")).strip()
    blocks, prose = fenced_blocks(text)
    blocks = [block for block in blocks if not is_no_program(block.text, lang)]
    if blocks:
        return the_program(blocks, lang)
    return unfenced_program(prose)


def without_reasoning(text: str) -> str:
    """Cut a leading <think> part, also one that lacks its opening tag; all, if it never ends."""
    end = END_OF_REASONING.search(text)
    if REASONING.match(text):
        return text[end.end() :] if end else ""
    if end and ("```" in text[end.end() :] or not is_code(text[: end.start()])):
        return text[end.end() :]
    return text


def fenced_blocks(text: str) -> tuple[list[Block], str]:
    """Split a text into its fenced blocks, of which the last may be unclosed, and the prose."""
    blocks: list[Block] = []
    prose: list[str] = []
    before: list[str] = []
    body: list[str] = []
    fence = None
    for line in text.split("\n"):
        if fence is None:
            fence = opening_fence(line)
            (before if fence is None else body).append(line if fence is None else fence.code)
            depth = 0
            if fence:
                before.append(fence.words)
        elif (step := fence.step(line)) is None or depth + step >= 0:
            depth += step or 0
            body.append(line)
        else:
            blocks.append(fence.block(body, before))
            prose.extend(before)
            before, body, fence = [fence.words_after(line)], [], None
    if fence:
        last = fence.block(body, before)
        blocks += [last] if last.tag or (not blocks and last.text) or is_code(last.text) else []
    return blocks, "\n".join(prose + before).strip()


class Fence(NamedTuple):
    """An opening fence line: what it says, and how its block is indented or quoted."""

    marks: str
    tag: str
    code: str  # that begins on the fence line
    words: str  # before a fence that is glued to a sentence
    prefix: str
    indent: int

    def unquoted(self, line: str) -> str:
        return line.removeprefix(self.prefix).removeprefix(self.prefix.rstrip())

    def step(self, line: str) -> int | None:
        """1 for a fence that opens inside, -1 for one that closes, None for a line of code."""
        match = FENCE.match(self.unquoted(line)) if self.marks in line else None
        if match is None or len(match["indent"].expandtabs(4)) > self.indent + 3:
            return None
        return 1 if re.fullmatch(r"[\w+#.-]+", match["info"].strip()) else -1

    def words_after(self, line: str) -> str:
        return line.split(self.marks, 1)[1].strip("`~ ")

    def block(self, body: list[str], before: list[str]) -> Block:
        body = [self.unquoted(line) for line in body]
        if self.indent:
            body = [re.sub(rf"^[ \t]{{0,{self.indent}}}", "", line) for line in body]
        return Block(self.tag, "\n".join(body).strip("\n"), "\n".join(before))


def opening_fence(line: str) -> Fence | None:
    if "```" not in line and "~~~" not in line:
        return None
    prefix = PREFIX.match(line)[0]  # type: ignore[index]  # it matches the empty string
    match, words = FENCE.match(line, len(prefix)), ""
    if match is None:
        prefix, match = "", GLUED.match(line)
        if match is None:
            return None
        words = line[: match.start("marks")]
    tag, _, rest = match["info"].strip().partition(" ")
    code = rest if IMPORT.match(rest) or (rest and CODE.match(rest) and "=" not in rest) else ""
    quoted = ">" in prefix
    indent = 0 if words else len(match["indent"] if quoted else line[: match.start("marks")])
    return Fence(match["marks"], tag.lower(), code, words, prefix if quoted else "", indent)


def is_no_program(text: str, lang: str) -> bool:
    """Whether a text is empty, a placeholder, or only commands that install or run something."""
    lines = [line for line in text.split("\n") if line.strip()]
    code = [line for line in lines if not COMMENT.match(line)] or lines
    if not any(name in lang.lower() for name in ("bash", "shell")):
        code = [line for line in code if not COMMAND.match(line)]
    return all(PLACEHOLDER.match(line) for line in code)


def the_program(blocks: list[Block], lang: str) -> str:
    """Choose a block: in the language, no aside, large, the last announced or else the first."""
    words = re.split(r"[\s,;()/]+", lang.lower())
    tags = {tag for word in words for tag in (word, *ALSO_TAGGED.get(word, "").split()) if tag}
    blocks = (
        [block for block in blocks if block.tag in tags]
        or [block for block in blocks if not ASIDE.match(block.tag)]
        or blocks
    )
    if len(blocks) > 1 and all(IMPORT.match(x) for x in blocks[0].text.split("\n") if x.strip()):
        return "\n\n".join(block.text for block in blocks)
    longest = max(len(block.text) for block in blocks)
    large = [block for block in blocks if len(block.text) >= 0.3 * longest]
    announced = [b for b in large if ANNOUNCED.search(b.announcement.rstrip().split("\n")[-1])]
    return announced[-1].text if announced else large[0].text


def is_code(text: str) -> bool:
    """Whether at least half of the lines look like code and none reads as a sentence."""
    lines = [x for x in text.split("\n") if x.strip()]
    code = [x for x in lines if not COMMENT.match(x)]
    looks = sum(1 for x in lines if CODE.match(x) or COMMENT.match(x))
    return bool(code) and 2 * looks >= len(lines) and not any(PROSE.match(x) for x in code)


def unfenced_program(text: str) -> str | None:
    """The whole text where it is code, after an introduction that ends with a colon; else None."""
    first, _, rest = text.partition("\n\n")
    if PROSE.match(first.replace("\n", " ")) and first.rstrip().endswith(":"):
        text = rest.strip("\n")
    return text if is_code(text) and not is_no_program(text, "") else None
