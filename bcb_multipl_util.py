"""Find the program in a model's markdown response, and return it exactly as it was written."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Reasoning stands in marks whose brackets differ from model to model; their name says what it is.
THINKING = r"(?=[\w:.-]*(?:think|thought|reason|reflect|analy|scratch|monologue|delib|cot))[\w:.-]+"
BAR = "[|\uff5c]"
TOKEN = (  # of a chat template, with the name of the part that it begins
    rf"(?:<(?:{BAR}[\w\u2581/-]+{BAR}?|[\w/]+{BAR}|/?s|unused\d+|eo[st]|bos|(?:end|start)_?of\w+)>"
    r"|\[/?INST\])(?:(?:assistant|model|user|final|answer)(?=[\n<]|\Z))?"
)
CLOSE = rf"[<\[◁]{BAR}?(?:/|end_(?:of_)?){THINKING}{BAR}?[>\]▷]"
LATER_MARK = re.compile(rf"(?im)^[ \t]*(?:({CLOSE})|[<\[◁]{THINKING}[>\]▷])|({CLOSE})\s*$")
ANSWER = r"[\w.:-]*(?:answer|code|solution|response|result|output|program|final)(?![\w.:-])"
PARTS = re.compile(  # of a response, up to the one that is the answer, or to what follows them
    rf"(?is)(?P<prose>[^<\[◁`]*)(?:(?(4)(?!))\s*(?:(?P<reasoning><(?:{BAR}{THINKING}{BAR}?>"
    rf"|(?:{BAR}\w+{BAR}?|unused\d+)>{THINKING}\s*(?:<{BAR}\w+{BAR}>)?).*?(?:{TOKEN}|\Z)"
    rf"|[<\[◁]{THINKING}(?:\s[^<>\n]*)?[>\]▷].*?(?<![\"'`]){CLOSE}(?![\"'`]))|{TOKEN}"
    rf"|<{ANSWER}>(?=\s*<\w)|(?<!\w)[<\[◁](?!details|script|style)(?P<name>({ANSWER})|\w[\w.:-]*)"
    r"(?:\s[^<>\]\n]*)?[>\]▷](?!\s*<[\w!])(?P<inside>.*?)"
    r"(?:(?<![\"'`])[<\[◁](?:/|end_)(?P=name)[>\]▷]|(?(4)\Z|(?!)))))*"
)
LONE_MARK = re.compile(r"(?m)(^)?[<\[◁]/(\w[\w.:-]*)[>\]▷](?(1)|\Z)")

BLANK = " \t\xa0\xad\u200b\u200c\u200d\u200e\u2060\ufeff"  # some have no width
FENCE = re.compile(rf"([>{BLANK}]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(`{{3,}}|~{{3,}}(?!~))(?=[^`]*$)")
FENCE_BEHIND_WORDS = re.compile(r"([^`]+)(`{3,})(?=[\w+#.-]*$)")
OPENING_FENCE = re.compile(r"[`~]+\s*\w[\w+#.-]*\s*$")
NAMES = "c# cs csharp|c++ cpp|go golang|python py|bash sh shell|javascript js jsx|typescript ts tsx"
SAME_LANGUAGE = {name: names.split()[0] for names in NAMES.split("|") for name in names.split()}
DATA = r"(te?xt|output|log|json|ya?ml|toml|xml|csv|ini|env|properties)$"
ASIDE = rf"(bash|zsh|console|powershell|cmd|markdown|mermaid|html|css|dockerfile|makefile)$|{DATA}"
COMPLETE = re.compile(
    r"(?i)\b(completed?|full|final|whole|entire|together|updated|revised|improved|optimi[sz]ed"
    r"|fix(ed)?|corrected|correct (version|code|solution|program)|properly|rewritten)\b"
)
REPAIR = re.compile(r"(?i)\b(wait|oops|hmm|mistake|wrong|incorrect|fix|change it to|should be)\b")
BESIDE = re.compile(
    r"(?im)\b(general|basic) (syntax|form)|^[^\w\n]*(the )?(usage|tests?|syntax|template)[^\w\n]*$"
)
SAMPLE = re.compile(r"(?<![\w/.])(example|sample)\b(?!/)", re.I)
QUESTION = re.compile(r"^[^\w\n]*(q|question|part|exercise|problem|task) ?\d", re.I | re.M)

KEYWORD = (
    r"(def|class|function|fn|func|fun|sub|module|program|import|from|using|#include|#lang|package|type"
    r"|public|export|template|const|let|var|local|print|echo|end|return|if|for|do|done|SELECT|WHERE)\b"
)
CODE_ON_FENCE_LINE = re.compile(KEYWORD + r"[ (]*[\w<\"'{]")
CODE = re.compile(
    r"\t|\s{2,}\S|.*[;{}(\[=\\]\s*$|[a-z_.]\w*:$"
    r"|\s*([{}()\[\]\\]|<[\w!/?]|[\w.:]+(\(|\s*(<-|[-+*/]?=))|" + KEYWORD + ")"
)
COMMENT = re.compile(r"\s*([#!]([#'\s]|$)|//|--|;|%)")
IMPORT = re.compile(r"\s*(import|from|using|#include|require|library|use|package|open)\b")
# Docstrings and block comments hold sentences; one that is never closed ends with the text.
QUOTED_TEXT = re.compile(
    r"(?sm)(\"{3}|'{3}).*?(\1|\Z)|^[ \t]*(/\*|--\[\[|\{-|\(\*|<!--).*?(\*/|\]\]|-\}|\*\)|-->|\Z)"
)
PROSE = re.compile(
    r" {,3}(`{3}|\d+[.)] |• |Step \d|([-*] +)?(\*\*[A-Z]|[\"*`]*([A-Z][a-z'-][\w'*`-]*|[AI])[,:]?"
    r"(( \S+){2,}[.:!?]\)?[*`]*\s*$|( [a-z][\w'`,-]*){4})))"
)
KIND_OF_LINE = re.compile(  # of a text without fences: space, boundary, prose, heading or code
    r"(?P<s>\s*$)|(?P<b>`{3}|([-=_*~─━═—]{3,}|<\w+>\w+|<\|\w+\|>|[A-Z`][a-z].*:)\s*$)"
    rf"|(?P<p>{PROSE.pattern}|\s*([-*\u2013] |#{{2,6}} |File(name)?: |`\w+`\s*$|[A-Z]\w*[.!]\s*$))"
    r"|(?P<h>#\s)|(?P<c>)"
)
PLACEHOLDER = re.compile(r"\W*((your|the|insert|add|write|put)\b.*\bcode\b.*)?$", re.I)
COMMAND = re.compile(
    r"[$%\s]*(sudo )?(pip3?|npm|npx|yarn|cargo|apt(-get)?|git|cd|mkdir|ls|tree|cat(?=[^|>]*$))\s"
)


class Block(NamedTuple):
    """A block of code: the language of its tag, its text, and the prose before it."""

    tag: str
    text: str
    before: str = ""

    @property
    def announcement(self) -> str:
        return (re.findall(r"(?m)^.*[^\W\d\n].*", self.before) or [""])[-1]


def extract_code_from_markdown(markdown: str, lang: str = "") -> str | None:
    """Return the program in a response as it was written, without the fence lines; None if none.

    lang is the language asked for, in free text ("C#", "JavaScript using Node 24").

    >>> extract_code_from_markdown("Here it is:\\n```lua\\nreturn 1\\n```\\nRun it!")
    'return 1'
    >>> extract_code_from_markdown("```c\\n0;\\n```\\n```cpp\\n1;\\n```", lang="C++")
    '1;'
    >>> extract_code_from_markdown("<think>Is x = 1?</think>Like this:\\nx = 2\\n\\nIt sets x.")
    'x = 2'
    >>> extract_code_from_markdown("I cannot help with that.")
    """
    text = without_reasoning(re.sub(r"\r\n?", "\n", markdown))
    blocks = fenced_blocks(text) or unfenced_blocks(text)
    if [block.tag for block in blocks] == ["markdown"]:  # some models wrap their whole answer
        blocks = fenced_blocks(blocks[0].text) or blocks
    blocks = [block for block in blocks if block.text and not is_no_program(block, lang)]
    return the_program(blocks, lang) if blocks else None


def without_reasoning(text: str) -> str:
    """Cut the reasoning and the tokens around an answer; all of it, if the reasoning never ends."""
    pieces = re.split(f"(?i)({TOKEN})", text)
    while len(pieces) > 1 and not pieces[-1].strip():
        del pieces[-2:]
    text = the_answer("".join(pieces))
    marks = [*LATER_MARK.finditer(text)]
    if not marks or is_code(text[: marks[0].start()]):
        return text
    if any(LATER_MARK.search(block.text) for block in fenced_blocks(text)):
        return text  # a program names them
    start = max((mark.end() for mark in marks if mark.lastindex), default=0)
    unclosed = (mark.start() for mark in marks if mark.start() >= start)
    return text[start : next(unclosed, None)]


def the_answer(text: str) -> str:
    """What comes after the parts that begin a response, or else what stands in the last of them."""
    parts = PARTS.match(text)
    if parts is None or parts[0] == parts["prose"] or is_code(parts["prose"]):
        return text
    rest, inside = text[parts.end() :], parts["inside"] or ""
    for answer in (inside, rest) if parts[4] else (rest, inside):
        blocks = fenced_blocks(answer) or unfenced_blocks(answer)
        if any(block.text[:1] != "<" and not re.match(ASIDE, block.tag) for block in blocks):
            return answer
    return rest if parts["reasoning"] else text


def without_lone_marks(text: str) -> str:
    """Cut the marks at a line's beginning or the text's end that close what has no opening mark."""
    opened = set(re.findall(r"[<\[◁](\w[\w.:-]*)", text))
    return LONE_MARK.sub(lambda m: m[0] if m[2] in opened else "", text.rstrip()).strip("\n")


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
        code = next(filter(CODE_ON_FENCE_LINE.match, (info, *rest)), "")
        tag = "" if code == info else SAME_LANGUAGE.get(tag.lower(), tag.lower())
        before, prose = "\n".join([*prose, fence[1]]), []
        if not tag and not blocks and re.match(r"\s*[^<\s].*\n\s*\S", before) and is_code(before):
            blocks.append(Block("?", before.strip()))  # it closes what has no opening fence
            continue
        text, closed = up_to_closing_fence(lines, fence)
        text = f"{code}\n{text}".strip("\n")
        if closed or tag or not blocks or is_code(text):
            blocks.append(Block(tag, text, before))
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
            depth += 1 if OPENING_FENCE.match(start) else -1
        if not depth:
            break
        body.append(line)
    # Some models indent only the fence: what goes is what all lines share with it.
    margin = min([indent, *(len(line) - len(line.lstrip()) for line in body if line.strip())])
    text = "\n".join(line[margin:] for line in body)
    return without_lone_marks(text.removesuffix(fence[2])) if depth else text, not depth


def unfenced_blocks(text: str) -> list[Block]:
    """The whole text where it is code, or else its sections that are, without prose around them."""
    text = without_lone_marks(text.strip(BLANK + "\n"))
    masked = QUOTED_TEXT.sub(lambda quoted: re.sub(".", "c", quoted[0]), text).split("\n")
    kind_of = {line: str(m.lastgroup) for line in set(masked) if (m := KIND_OF_LINE.match(line))}
    kinds = "".join(kind_of[line] for line in masked)
    if not {kinds[0], kinds[-1]} & {"b", "p"} and is_code(text):
        return [Block("", text)]
    lines = text.split("\n")
    sections = re.finditer("h[hs]*(c([chps]*c)?h*)?|c([chps]*c)?h*", kinds)
    codes = ["\n".join(lines[slice(*part.span())]) for part in sections]
    return [Block("", code.strip("\n")) for code in codes if is_code(code)]


def is_code(text: str) -> bool:
    """Whether more than half of the different lines look like code and none reads as a sentence."""
    lines = set(QUOTED_TEXT.sub("", text).split("\n"))
    lines = {line for line in lines if line.strip() and not COMMENT.match(line)}
    looks = sum(1 for line in lines if CODE.match(line))
    return 2 * looks > len(lines) and not any(PROSE.match(line) for line in lines)


def is_no_program(block: Block, lang: str) -> bool:
    """Whether a block is empty, a placeholder, a sample of data, or only commands to install."""
    is_sample = re.match(DATA, block.tag) and SAMPLE.search(block.announcement)
    lines = [line for line in block.text.split("\n") if line.strip()]
    code = [line for line in lines if not COMMENT.match(line)] or lines
    if not any(name in lang.lower() for name in ("bash", "shell")):
        code = [line for line in code if not COMMAND.match(line)]
    return bool(is_sample) or all(PLACEHOLDER.match(line) for line in code)


def the_program(blocks: list[Block], lang: str) -> str:
    """Narrow the blocks down by one preference after another, none of which excludes them all."""
    asked = {SAME_LANGUAGE.get(word, word) for word in re.split(r"[\s,;()/]+", lang.lower())}
    blocks = [b for b in blocks if b.tag in asked - {""} | {"?"}] or blocks
    blocks = [b for b in blocks if not re.match(ASIDE, b.tag) or b.text.startswith("#!")] or blocks
    if are_pieces(blocks):
        return "\n\n".join(b.text for b in blocks)
    blocks = [b for b in blocks if b.tag] or [b for b in blocks if is_code(b.text)] or blocks
    blocks = [b for b in blocks if not BESIDE.search(b.before)] or blocks
    longest = max(blocks, key=lambda b: len(b.text))
    blocks = [b for b in blocks if b.tag == longest.tag and 3 * len(b.text) >= len(longest.text)]
    blocks = [b for b in blocks if b is longest or f"{b.text}\n" not in f"{longest.text}\n"]
    later = [b for b in blocks if COMPLETE.search(b.announcement) or REPAIR.search(b.before)]
    later = [b for b in later if 5 * len(b.text) >= 4 * len(longest.text)]
    return (later[-1:] or blocks)[0].text


def are_pieces(blocks: list[Block]) -> bool:
    """Whether each answers a question of its own, or the first holds the imports of the others."""
    imports, *others = (block.text for block in blocks)
    questions = all(QUESTION.search(block.before) for block in blocks)
    header = all(IMPORT.match(line) for line in imports.split("\n") if line.strip())
    return bool(others) and (questions or (header and not any(imports in t for t in others)))
