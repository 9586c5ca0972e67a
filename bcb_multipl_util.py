"""Find the program in a model's markdown response, and return it exactly as it was written."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Reasoning stands in marks whose brackets differ from model to model; their name says what it is.
THINKING = r"(?=[\w:.-]*(?:think|thought|reason|reflect|analy|scratch|monologue|delib))[\w:.-]+"
BAR = "[|\uff5c]"
CLOSING = rf"(?<![\"'`])[<\[◁]{BAR}?(?:/|end_(?:of_)?){THINKING}{BAR}?[>\]▷](?![\"'`])"
# A token of a chat template, with the name of the part that it begins: <|im_start|>assistant, </s>
ROLE = r"(?:(?:assistant|model|user|final|answer)\b)?"
TOKEN = rf"<(?:{BAR}[^\s<>]+|\w+{BAR}|/?s|eos|unused\d+|\w+_of_turn)>{ROLE}"
# What ends or begins reasoning: </think> and <think> at an end of a line, <|channel|>analysis.
REASONING_MARK = re.compile(
    rf"(?im)^[ \t]*{CLOSING}|{CLOSING}[ \t]*$"
    rf"|^[ \t]*(?P<opening>[<\[◁]{BAR}?{THINKING}{BAR}?[>\]▷])"
    rf"|(?P<channel>{TOKEN}{THINKING}\s*(?:<{BAR}message{BAR}>)?)"
)
# Other named parts: <plan>...</plan>, [PYTHON]...[/PYTHON], <response><code>...</code></response>
ANSWER = r"[\w.:-]*(?:answer|code|solution|response|output)"
PART = re.compile(
    rf"(?is)(?:\s*<{ANSWER}>(?=\s*<\w))*"
    r"\s*[<\[◁](?!script|style)(?P<name>\w[\w.:-]*)(?:\s[^<>\]\n]*)?[>\]▷](?!\s*<\w)"
    r"(?P<inside>.*?)[<\[◁]/(?P=name)[>\]▷]"
)
OUTER_MARK = re.compile(  # at the beginning or the end, and maybe without its partner
    rf"(?i)(?:\A\s*[<\[◁](?=/|{ANSWER}\W)|[<\[◁](?=/[\w.:-]+[>\]▷]\s*\Z))/?([\w.:-]+)[>\]▷]"
)
BLANK = " \t\xa0\xad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"  # some have no width
# A fence behind quote or list marks, and one at the end of a sentence.
FENCE = re.compile(rf"([>{BLANK}]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(`{{3,}}|~{{3,}}(?!~))(?=[^`]*$)")
FENCE_BEHIND_WORDS = re.compile(r"([^`]+)(`{3,})(?=[\w+#.-]*$)")
NAMES = "c# cs csharp|c++ cpp|go golang|python py|bash sh shell|javascript js jsx|typescript ts tsx"
SAME_LANGUAGE = {name: names.split()[0] for names in NAMES.split("|") for name in names.split()}
# Tags of blocks that are the program only where there is no other.
DATA = r"(te?xt|output|log|json|ya?ml|toml|xml|csv|ini|env|properties)$"
ASIDE = rf"(bash|console|powershell|markdown|mermaid|html|css|dockerfile|makefile)$|{DATA}"
# What is said before a block that is the whole program, or the corrected one.
COMPLETE = re.compile(r"(?i)\b(completed?|full|final|fixed|\w+ed (\w+ )?(version|code))\b")
REPAIR = re.compile(r"(?i)\b(wait|oops|mistake|wrong|incorrect|fix|should be)\b")
# What stands above a block that is not the program.
BESIDE = re.compile(
    r"(?im)\bgeneral (syntax|form)|^[^\w\n]*(\w+ )?(usage|tests?|examples?|syntax)( \w+)?[^\w\n]*$"
)
QUESTION = re.compile(r"(?im)^[^\w\n]*(q(uestion)?|part|problem|task) ?\d")
# A line of code is indented, holds signs, or begins with one of these words.
KEYWORD = (
    r"(def|class|function|func|module|import|from|using|#include|package|public|const|let|var|local"
    r"|return|if|for|do|done|end|SELECT|WHERE)\b"
)
CODE = re.compile(r"\t|  |\(|.*([;{}=<>$\"|]|\w[(\[])|" + KEYWORD)
COMMENT = re.compile(r"\s*([#!]([#'\s]|$)|//|--|;|%)")
IMPORT = re.compile(r"\s*(import|from|using|#include|require|library|use|package|open)\b")
# Docstrings and block comments hold sentences; one that is never closed ends with the text.
QUOTED_TEXT = re.compile(
    r"(?sm)(\"{3}|'{3}).*?(\1|\Z)|^[ \t]*(/\*|--\[\[|\{-|\(\*|<!--).*?(\*/|\]\]|-\}|\*\)|-->|\Z)"
)
# A numbered item, a title, or a sentence: a capital, and a stop or three small words in a row.
PROSE = re.compile(
    r" {,3}(\d+[.)] |Step \d|([-*] +)?(\*\*[A-Z]|[\"*`]*[^\W\da-z_]([^\W\dA-Z_]|['\s])"
    r"(.* \S+[.:!?]\W*$|.*( [^\W\dA-Z_][\w'`,-]*){3})))"
)
KIND_OF_LINE = re.compile(  # in a text without fences: space, heading, boundary, prose or code
    r"(?P<s>\s*$)|(?P<h>#\s)|(?P<b>`{3}|([-=_*~─━═—]{3,}|<\w+>\w+|<\|\w+\|>|[A-Z`][a-z].*:)\s*$)"
    rf"|(?P<p>{PROSE.pattern}|\s*([-*•\u2013] |#{{2,6}} |File: |(`[^`]+`|\|.*\||[A-Z]\w*[.!])\s*$))"
    r"|(?P<c>)"
)
PLACEHOLDER = re.compile(r"(?i)\W*(your\b.*\bhere\W*)?$")
COMMAND = re.compile(r"[$%\s]*(sudo )?(pip3?|npm|yarn|cargo|apt(-get)?|git|cd|mkdir|ls|tree)\s")


class Block(NamedTuple):
    """A block of code: the language of its tag, its text, and the prose before it."""

    tag: str
    text: str
    before: str = ""

    @property
    def announcement(self) -> str:
        return self.before.strip().split("\n")[-1]


def extract_code_from_markdown(markdown: str, lang: str = "") -> str | None:
    """Return the program in a response as it was written, without the fence lines; None if none.

    Reasoning, tokens and marks around the answer are cut. Candidates are the fenced blocks, or the
    code between prose; first those in the language asked for, of no data, page or shell, with a tag
    and not headed as usage or tests. The program is the last, two thirds as long as the longest,
    that is called complete or corrected, or else the first a third as long with the longest's tag
    and no piece of it. Blocks after imports, and blocks under "Q1", "Q2" ..., are joined.

    lang is the language asked for, in free text ("C#", "JavaScript using Node 24").

    >>> extract_code_from_markdown("Here it is:\\n```lua\\nreturn 1\\n```\\nRun it!")
    'return 1'
    >>> extract_code_from_markdown("```c\\n0;\\n```\\n```cpp\\n1;\\n```", lang="C++")
    '1;'
    """
    text = the_answer(without_reasoning(re.sub(r"\r\n?", "\n", markdown)))
    blocks = fenced_blocks(text) or unfenced_blocks(text)
    if len(blocks) == 1 and (blocks[0].tag == "markdown" or blocks[0].text.startswith("```")):
        blocks = fenced_blocks(blocks[0].text) or blocks  # some models wrap their whole answer
    blocks = [block for block in blocks if block.text and not is_no_program(block, lang)]
    return the_program(blocks, lang) if blocks else None


def without_reasoning(text: str) -> str:
    """Cut the reasoning and the tokens around an answer; all of it, if the reasoning never ends."""
    pieces = re.split(f"(?i)({TOKEN})", text)
    while len(pieces) > 1 and not pieces[-1].strip():
        del pieces[-2:]
    text, start = "".join(pieces), 0
    while mark := REASONING_MARK.search(text, start):
        before = text[start : mark.start()]
        blocks = fenced_blocks(before + mark[0])
        if is_code(before) or any(mark[0].strip() in block.text for block in blocks):
            return text[start:]  # a program names the mark
        start = mark.end()
        if mark["channel"] or mark["opening"]:
            end = re.compile(f"(?i){TOKEN if mark['channel'] else CLOSING}").search(text, start)
            if not end:
                return before
            start = end.end()
    return re.sub(rf"(?i)\A(\s*{TOKEN})+", "", text[start:])


def the_answer(text: str) -> str:
    """What stands in <answer> or the like; or what follows the named parts; or the last of them."""
    prose = re.split(r"[<\[◁`]", text, maxsplit=1)[0]
    start, part, answer = len(prose), None, ""
    while not answer and (following := PART.match(text, start)):
        part, start = following, following.end()
        answer = part["inside"] if re.match(rf"(?i){ANSWER}$", part["name"]) else ""
    for found in (answer, text[start:], part["inside"]) if part and not is_code(prose) else ():
        blocks = fenced_blocks(found) or unfenced_blocks(found)
        if any(b.text[:1] != "<" and not re.match(ASIDE, b.tag) for b in blocks):
            text = found
            break
    names = re.findall(r"[<\[◁]/?([\w.:-]+)", text)
    return OUTER_MARK.sub(lambda m: m[0] if names.count(m[1]) > 1 else "", text)


def fenced_blocks(text: str) -> list[Block]:
    """Split off the fenced blocks, of which the last may be unclosed."""
    blocks: list[Block] = []
    prose: list[str] = []
    lines = iter(text.split("\n") if "```" in text or "~~~" in text else [])
    for line in lines:
        if not (fence := FENCE.match(line) or FENCE_BEHIND_WORDS.match(line)):
            prose.append(line)
            continue
        info = line[fence.end() :].strip()
        tag, *rest = re.split(r"[\s:{,]+", info, maxsplit=1)
        code = next((part for part in (info, *rest) if part and re.match(f"{KEYWORD} ", part)), "")
        tag = "" if code == info else SAME_LANGUAGE.get(tag.lower(), tag.lower())
        before, prose = "\n".join([*prose, fence[1]]), []
        if not tag and not blocks and re.match(r"\s*[^<\s].*\n\s*\S", before) and is_code(before):
            blocks.append(Block("?", before.strip()))  # it closes what has no opening fence
            continue
        text, closed = up_to_closing_fence(lines, fence)
        if closed or tag or not blocks:
            blocks.append(Block(tag, f"{code}\n{text}".strip("\n"), before))
    return blocks


def up_to_closing_fence(lines: Iterator[str], fence: re.Match) -> tuple[str, bool]:
    """Take lines for a block, and say if it is closed; a fence with a tag opens a block in it."""
    quotes = fence[1].count(">")
    indent = len(fence[1].split(">")[-1]) if fence.re is FENCE else 0
    body, depth = [], 1
    for line in lines:
        line = re.sub(rf"([ \t]*>){{,{quotes}}}", "", line, count=1) if quotes else line
        start = line.lstrip(BLANK)
        if start.startswith(fence[2]) and len(line.removesuffix(start).expandtabs(4)) <= indent + 3:
            depth += 1 if start.lstrip("`~")[:1].isalnum() else -1
        if not depth:
            break
        body.append(line)
    # Some models indent only the fence: what goes is what all lines share with it.
    margin = min([indent, *(len(line) - len(line.lstrip()) for line in body if line.strip())])
    text = "\n".join(line[margin:] for line in body)
    return re.split(r"(?m)(?<=[^\s`])`{3}$", text, maxsplit=1)[0] if depth else text, not depth


def unfenced_blocks(text: str) -> list[Block]:
    """The whole text where it is code, or else its sections that are, without prose around them."""
    text = text.strip(BLANK + "\n")
    lines = text.split("\n")
    kind_of = {line: str(m.lastgroup)[0] for line in set(lines) if (m := KIND_OF_LINE.match(line))}
    kinds = "".join(kind_of[line] for line in lines)
    if {kinds[0], kinds[-1]} <= {"c", "h"} and is_code(text):
        return [Block("", text)]
    parts = re.finditer("(?<!h)h*c([^b]*c)?h*", kinds)
    codes = ["\n".join(lines[slice(*part.span())]) for part in parts]
    return [Block("", code) for code in codes if is_code(code)]


def is_code(text: str) -> bool:
    """Whether more than half of the different lines look like code and none reads as a sentence."""
    different = set(QUOTED_TEXT.sub("", text).split("\n"))
    lines = [line for line in different if line.strip() and not COMMENT.match(line)]
    looks = sum(1 for line in lines if CODE.match(line))
    return 2 * looks > len(lines) and not any(PROSE.match(line) for line in lines)


def is_no_program(block: Block, lang: str) -> bool:
    """Whether a block is empty, a placeholder, a sample of data, or only commands to install."""
    is_sample = re.match(DATA, block.tag) and " example" in f" {block.announcement.lower()}"
    lines = [line for line in block.text.split("\n") if line.strip()]
    code = [line for line in lines if not COMMENT.match(line)] or lines
    if not re.search("(?i)bash|shell", lang):
        code = [line for line in code if not COMMAND.match(line)]
    return bool(is_sample) or all(PLACEHOLDER.match(line) for line in code)


def the_program(blocks: list[Block], lang: str) -> str:
    """Narrow the blocks down by one preference after another, none of which excludes them all."""
    asked = {SAME_LANGUAGE.get(word, word) for word in re.split(r"[\s,;()/]+", lang.lower())}
    blocks = [b for b in blocks if b.tag in asked - {""} | {"?"}] or blocks
    main = [b for b in blocks if (b.tag and not re.match(ASIDE, b.tag)) or b.text[:2] == "#!"]
    blocks = main or [b for b in blocks if not b.tag and is_code(b.text)] or blocks
    if are_pieces(blocks):
        return "\n\n".join(b.text for b in blocks)
    blocks = [b for b in blocks if b.tag] or blocks
    blocks = [b for b in blocks if not BESIDE.search(b.before + b.text.split("\n")[0])] or blocks
    longest = max(blocks, key=lambda b: len(b.text))
    blocks = [b for b in blocks if b.tag == longest.tag and 3 * len(b.text) >= len(longest.text)]
    blocks = [b for b in blocks if b is longest or f"{b.text}\n" not in f"{longest.text}\n"]
    later = [b for b in blocks if COMPLETE.search(b.announcement) or REPAIR.search(b.before)]
    later = [b for b in later if 3 * len(b.text) >= 2 * len(longest.text)]
    return (later[-1:] or blocks)[0].text


def are_pieces(blocks: list[Block]) -> bool:
    """Whether each answers a question of its own, or the first holds the imports of the others."""
    imports, *others = (block.text for block in blocks)
    header = all(IMPORT.match(line) for line in imports.split("\n") if line.strip())
    header = header and not any(imports in text for text in others)
    return bool(others) and (header or all(QUESTION.search(block.before) for block in blocks))
