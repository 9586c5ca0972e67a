"""Find the program in a model's markdown response, and return it exactly as it was written."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Marks of reasoning, whose names and brackets differ by model: </think>, [THINK], <seed:think>
NAME = r"(?=[\w:.-]*(?:think|thought|reason|reflect|analy|scratch|monolog|\bplan|rational))[\w:.-]+"
CLOSING = rf"(?<![\"'])(?<![^`]`)[<\[◁]\|?(?:/|end_(?:of_)?){NAME}\|?[>\]▷](?![\"']|`[^`])"
OPENING = rf"(?:^[ \t]*|(?<=>))(?:[<◁]\|?{NAME}\|?(?: [^<>\n]*)?[>▷]|\[THINK\])"
# How harmony, with and without its tokens, and Gemma begin reasoning and the answer.
ANALYSIS = rf"<\|channel\|?>{NAME}"
FINAL = r"<\|channel\|>final[^<]*<\|message\|>|(?-i:assistantfinal)|<channel\|>"
REASONING = re.compile(rf"(?im)(?P<closing>{CLOSING}|{FINAL})|{OPENING}|{ANALYSIS}")
# A token of a chat template, and the role that it begins: <|eot_id|>, </s>, <|im_start|>assistant
TOKEN = r"(?:<[|\uff5c][^\s<>]+>|</?s>|<eos>|<\w+_of_turn>|\[/?INST\])(?:assistant\b)?"
# The names of marks around a program: <answer>, [PYTHON]. Its mark is the first in the response.
ANSWER = r"[\w.:-]*(?:answer|code|solution|response|output|query|program|sql|python|artifact)"
ANSWER_MARK = re.compile(rf"(?im)([^<]*?)(?:<|^\[)({ANSWER})(?:\s[^<>\n]*)?[>\]]")
LONE_CLOSING = re.compile(rf"(?i)[<\[]/{ANSWER}[>\]]\s*\Z")
# White space before a fence; some of it has no width.
BLANK = " \t\xa0\xad\u200b\u200c\u200d\u2060\ufeff"
# A fence may stand behind quote or list marks or, with no more than a tag after it, behind words.
FENCE = re.compile(rf"([>{BLANK}]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(`{{3,}}|~{{3,}}(?!~))(?=[^`]*$)")
FENCE_BEHIND_WORDS = re.compile(r"([^`]+)(`{3,})(?=[\w+#.-]*$)")
# Names and tags of one language, by which --lang and the tag of a block are compared.
TAGS = "cs=c# csharp=c# cpp=c++ golang=go py=python sh=bash shell=bash rb=ruby js=javascript"
TAGS += " jsx=javascript node=javascript node.js=javascript ts=typescript tsx=typescript"
TAGS += " rs=rust pl=perl ml=ocaml jl=julia rkt=racket hs=haskell kt=kotlin"
SAME_LANGUAGE = dict(pair.split("=") for pair in TAGS.split())
# Tags of blocks that are the program only where there is no other: data, shell, pages, settings.
DATA = r"te?xt|output|log|json|ya?ml|toml|xml|csv|ini|env|properties|mermaid|dockerfile|makefile"
ASIDE = re.compile(rf"({DATA}|bash|console|powershell|markdown|html|css)?$")
# What the line above a block says if it is the whole program, or corrects the one before.
VERSION = r"\w+ed (\w+ )?(version|code)"
COMPLETE = re.compile(rf"(?i)\b(completed?|full|final|fix(ed)?|together|wait|oops|{VERSION})\b")
# What stands above a block that is not the program: a heading of usage or tests, that it is a form
# to fill in, what the program starts from, or the tables that it reads.
HEADING = r"^[^\w\n]*(\w+ )?(usage|tests?|examples?|syntax)( \w+)?[^\w\n]*$"
ORIGINAL = (
    r"^[^\w\n]*(the |your )?(original|buggy|existing|before)\b.{0,20}$|\byour original code\W*$"
)
TABLES = r"^[^\w\n]*(assum|suppos|given)\w* .*\b(tables?|schema|data)\b.{0,30}:$"
BESIDE = re.compile(rf"(?im){HEADING}|{ORIGINAL}|{TABLES}|\bgeneral (syntax|form)")
# What stands above a block that answers one of several questions.
QUESTION = re.compile(r"(?im)^[^\w\n]*(q(uestion)?|part|problem|task) ?\d")
# Lines of a block of imports, and of one that holds no program: placeholders, installations.
IMPORT = re.compile(r"\s*((import|from|using|#include|require|library|use|package|open)\b|$)")
INSTALL = r"(sudo )?(pip3?|npm|yarn|cargo|apt(-get)?) (i|install|add)\b.*"
NOTHING = re.compile(rf"(?i)\W*(your\b.*\bhere\W*|{INSTALL})?$")
# A line of code is indented, holds signs, or begins with capitals or a keyword; what a comment
# says is neither code nor prose.
DECLARE = "def|class|function|func|module|import|from|using|#include|package|public|const|let|var"
KEYWORD = rf"({DECLARE}|local|return|if|for|do|done|end|SELECT)\b"
CAPITALS = r"[A-Z][A-Z_-]+(?![\w:]| [a-z]+ [a-z]+ )"
CODE = re.compile(rf"\t|  |\(|.*([;{{}}=<>$\"|]|\w[(\[])|{CAPITALS}|{KEYWORD}")
COMMENT = re.compile(r"\s*([#!]([#'\s]|$)|//|--|;|%)")
# Docstrings and block comments hold sentences; one that is never closed ends with the text.
DOCSTRING = r"(\"{3}|'{3}).*?(\1|\Z)"
BLOCK_COMMENT = r"^[ \t]*(/\*|--\[\[|\{-|\(\*|<!--).*?(\*/|\]\]|-\}|\*\)|-->|\Z)"
QUOTED_TEXT = re.compile(f"(?sm){DOCSTRING}|{BLOCK_COMMENT}")
# A sentence begins with a capital, and ends with a stop or holds three small words in a row.
SENTENCE = r"[\"*`]*[^\W\da-z_]([^\W\dA-Z_]|['\s])"
SENTENCE += r"(.* \S*\w[])\"'`*]*[.:!?]\W*$|.*( [^\W\dA-Z_][\w'`,-]*){3})"
# A line of prose: a numbered item, Chinese or the like, a title, or a sentence.
PROSE = re.compile(rf" {{,3}}(\d+[.)] |Step \d|[\u3040-\ud7ff]|([-*] +)?(\*\*[A-Z]|{SENTENCE}))")
# In a text without fences, what stands beside the code: items, spans of code, tables, words; and
# what separates its sections: a fence, a ruler, a token, a line that ends with a colon.
LISTED = r"\s*([-*•\u2013] |#{2,6} |((`[^`]+`|\|.*\||[A-Z]\w*[.!])\s*)?$)"
BOUNDARY = r"`{3}|([-=_*~─━═—]{3,}|<\w+>\w+|<\|\w+\|>|(`|[^\W\da-z_])[^\W\dA-Z_].*:)\s*$"
KIND_OF_LINE = re.compile(rf"(?P<h>#\s)|(?P<b>{BOUNDARY})|(?P<p>{PROSE.pattern}|{LISTED})|(?P<c>)")


class Block(NamedTuple):
    """A block of code: the language of its tag, its text, and the prose before it."""

    tag: str
    text: str
    before: str = ""


def extract_code_from_markdown(markdown: str, lang: str = "") -> str | None:
    """Return the program in a response as it was written, without the fence lines; None if none.

    Reasoning is cut, and of <answer> or the like what stands in it is read. Candidates are the
    fenced blocks or, without any, the code between prose: first those in the language asked for,
    of no data, page or shell, with a tag, and not headed as usage or tests. Of those with the tag
    of the longest, at least a quarter as long (lines that begin alike count once) and no piece of
    it, the program is the last that is called complete or corrected, or else the first. Blocks
    after imports, and blocks under "Q1", "Q2" ..., are joined.

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
    blocks = [b for b in blocks if not all(map(NOTHING.match, b.text.split("\n")))]
    return the_program(blocks, lang) if blocks else None


def without_reasoning(text: str) -> str:
    """Cut what stands in marks of reasoning or before a closing one; all, if it is never closed."""
    kept, start, opened = "", 0, False
    for mark in REASONING.finditer(text):
        before = text[start : mark.start()]
        blocks = fenced_blocks(before + mark[0])
        named = any(mark[0] in block.text for block in blocks)
        if opened:
            opened = not mark["closing"]
        elif named or (not blocks and is_code(re.sub("<[^<>]*>", "", before))):
            break  # by a program
        else:
            kept, opened = ("", False) if mark["closing"] else (kept + before, True)
        start = mark.end()
    return kept if opened else kept + text[start:]


def the_answer(text: str) -> str:
    """What stands in <answer> or the like before any fence; if it has no fence, all of it."""
    pieces = re.split(f"({TOKEN})", re.sub(rf"\A(\s*{TOKEN})+", "", text))
    while len(pieces) > 1 and not pieces[-1].strip():
        del pieces[-2:]  # a token at the end
    text = LONE_CLOSING.sub("", "".join(pieces))
    mark = ANSWER_MARK.match(text.split("```", maxsplit=1)[0])
    if not mark or is_code(mark[1]):
        return text
    inside = re.split(rf"(?i)[<\[]/{mark[2]}[>\]]", text[mark.end() :], maxsplit=1)[0]
    if "```" in inside:
        return inside
    return f"```\n{inside}\n```" if inside.startswith("\n") or is_code(inside) else text


def fenced_blocks(text: str) -> list[Block]:
    """Split off the fenced blocks, of which the last may be unclosed."""
    blocks: list[Block] = []
    prose: list[str] = []
    lines = iter(text.split("\n"))
    for line in lines:
        if not (fence := FENCE.match(line) or FENCE_BEHIND_WORDS.match(line)):
            prose.append(line)
            continue
        info = line[fence.end() :].strip()
        tag, *rest = re.split(r"[\s:{,]+", info, maxsplit=1)
        code = next((part for part in (info, *rest) if re.match(f"{KEYWORD} ", part)), "")
        before, prose = "\n".join([*prose, fence[1]]), []
        if not info and not blocks and "\n" in before.strip() and is_code(before):
            blocks.append(Block("?", before.strip()))  # it closes what has no opening fence
            continue
        body = up_to_closing_fence(lines, fence)
        if not (info or blocks or is_code(body)):
            blocks = unfenced_blocks(before)  # so does this one, before an explanation
        tag = "" if code == info else language(tag)
        blocks.append(Block(tag, f"{code}\n{body}".strip("\n"), before))
    return blocks


def up_to_closing_fence(lines: Iterator[str], fence: re.Match) -> str:
    """Take the lines of a block, and the fence after it; one with a tag opens a block in it."""
    quotes = fence[1].count(">")
    indent = len(fence[1].split(">")[-1]) if fence.re is FENCE else 0
    body, depth = [], 1
    for line in lines:
        line = re.sub(rf"([ \t]*>){{,{quotes}}}", "", line, count=1) if quotes else line
        start = line.expandtabs(4).lstrip(BLANK)
        if start.startswith(fence[2]) and len(line.expandtabs(4)) <= len(start) + indent + 3:
            depth += 1 if start.lstrip("`~")[:1].isalnum() else -1
        if not depth:
            break
        body.append(line)
    # Some models indent only the fence: what goes is what all lines share with it.
    margin = min([indent, *(len(line) - len(line.lstrip()) for line in body if line.strip())])
    text = "\n".join(line[margin:] for line in body)
    # Where there is no other, a closing fence behind code or indented deeper counts.
    return re.split(r"(?m)(?:(?<=[^\s`])|^[ \t]+)`{3}$", text, maxsplit=1)[0] if depth else text


def unfenced_blocks(text: str) -> list[Block]:
    """The whole text where it is code, or else its sections that are, without prose around them."""
    text = text.strip(BLANK + "\n")
    lines = text.split("\n")
    kinds = "".join(str(m.lastgroup) for line in lines if (m := KIND_OF_LINE.match(line)))
    if {kinds[0], kinds[-1]} <= {"c", "h"} and is_code(text):
        return [Block("", text)]
    parts = [part.span() for part in re.finditer("(?<!h)h*c([^b]*c)?h*", kinds)]
    codes = [("\n".join(lines[i:j]), "\n".join(lines[max(i - 3, 0) : i])) for i, j in parts]
    return [Block("", code, before) for code, before in codes if is_code(code)]


def is_code(text: str) -> bool:
    """Whether more than half of the lines look like code and none reads as a sentence."""
    lines = QUOTED_TEXT.sub("", text).split("\n")
    lines = [line for line in lines if line.strip() and not COMMENT.match(line)]
    looks = sum(1 for line in lines if CODE.match(line))
    return 2 * looks > len(lines) and not any(PROSE.match(line) for line in lines)


def language(name: str) -> str:
    """One name for the names of a language, without its version."""
    name = name.lower().rstrip("0123456789.")
    return SAME_LANGUAGE.get(name, name)


def the_program(blocks: list[Block], lang: str) -> str:
    """Narrow the blocks down by one preference after another, none of which excludes them all."""
    asked = {language(word) for word in re.split(r"[\s,;()/]+", lang)} - {"", "text"}
    blocks = [b for b in blocks if b.tag in asked] or blocks
    main = [b for b in blocks if not ASIDE.match(b.tag) or b.text[:2] == "#!"]
    untagged = [b for b in blocks if not b.tag and is_code(b.text)]
    blocks = main or untagged or [b for b in blocks if b.tag] or blocks
    first, *others = (b.text for b in blocks)
    header = all(map(IMPORT.match, first.split("\n"))) and not any(first in o for o in others)
    if others and (header or all(QUESTION.search(b.before) for b in blocks)):
        return "\n\n".join([first, *others])
    blocks = [b for b in blocks if not BESIDE.search(b.before + b.text.split("\n")[0])] or blocks
    longest = max(blocks, key=size)
    most, whole = size(longest), set(longest.text.split("\n"))
    blocks = [b for b in blocks if b.tag == longest.tag and 4 * size(b) >= most]
    blocks = [b for b in blocks if b.text == longest.text or {*b.text.split("\n")} - whole]
    complete = [b for b in blocks if COMPLETE.search(b.before.strip().split("\n")[-1])]
    complete = [b for b in complete if 3 * size(b) >= 2 * most]
    return (complete[-1:] or blocks)[0].text


def size(block: Block) -> int:
    """How long a block is; lines that begin alike, as assertions and data do, count once."""
    lines = re.sub(r"\d", "", block.text).split("\n")
    return sum(map(len, {line[:16]: line for line in lines}.values()))
