"""Which program is found in a response: one row for each rule, and its opposite beside it."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import bcb_multipl_util
from bcb_multipl_util import extract_code_from_markdown

PYTHON = """\
def median(values):
    ordered = sorted(values)

    return ordered[len(ordered) // 2]"""
LUA = """\
local function count_words(text)
  local n = 0
  for _ in text:gmatch("%S+") do n = n + 1 end
  return n
end"""
CSHARP = """\
using System;

public static class Clamp
{
    public static int Between(int x, int low, int high) => Math.Max(low, Math.Min(high, x));
}"""
RUST = """\
pub fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}"""
R = """\
rescale <- function(x) {
  (x - min(x)) / (max(x) - min(x))
}"""
JULIA = "using Dates\n\nage(born) = year(today()) - year(born)"
RACKET = "#lang racket\n(define (twice xs)\n  (append xs xs))"
FORTRAN = (
    "program squares\n  integer :: i\n  do i = 1, 9\n    print *, i * i\n  end do\nend program"
)
BASH = '#!/usr/bin/env bash\nfor file in "$@"; do\n  mv -- "$file" "${file,,}"\ndone'
JAVASCRIPT = "export const half = (x) => x / 2;"
HASKELL = "runs :: Eq a => [a] -> [[a]]\nruns = group"
SQL = "SELECT name\nFROM people\nWHERE age > 30;"
C_DRAFT = "int gcd(int a, int b) {\n    return b ? gcd(b, a % b) : a;\n}"

AREA = "def area(r):\n    return 3.14 * r * r"
VOLUME = "def volume(r, h):\n    return area(r) * h"
WHOLE = f"{AREA}\n\n\n{VOLUME}"
STRIP = 'import re\n\n\ndef strip(text):\n    # up to </think>\n    return re.sub("^.*>", "", text)'
NESTED = 'def table(rows):\n    """Make a table.\n\n    ```\n    table([[1]])\n    ```\n    """'
PROMPT = (
    'PROMPT = """\nAnswer so:\n```json\n{"x": 1}\n```\n"""\n\ndef ask(model):\n    model(PROMPT)'
)
DOCSTRING = (
    f'"""Means.\n\nThe list must not be empty.\nAn empty one raises an error.\n"""\n\n{AREA}'
)
REPL = ">>> from statistics import median\n>>> median([1, 2, 3])\n2"
USED = f"{AREA}\n\n\n# Example usage:\narea(2)"
QUOTES = 'x = """\n```\n"""'
DATA = '{"age": 31}\n' * 9
FIND = "find . -name '*.log' -delete"
STUB = "def f():\n    # your code here"
COMMENTED = f"# It is an area.\n# It is not rounded.\n# The radius is given.\n{AREA}"
BLOCK_COMMENT = f"--[[\nIt counts the words.\n]]\n{LUA}"
TABBED = "/*\n\t```\n*/\nfunc f() {}"
TESTS = "def test_area():" + "\n    assert area(0) == 0" * 9
TEMPLATE = "SELECT column\nFROM table\nWHERE condition;"
IMPORT = "import math"
QUESTIONS = f"{AREA}\n\n{LUA}"
JOINED = f"{IMPORT}\n\n{AREA}\n\n{VOLUME}"


DRAFT = "def area(r):\n    return r * r"
REPAIRED = "def area(r):\n    return 3.14159 * r * r"
TSX = "export const Hint = ({ text }: { text: string }) => {\n  return <i>{text}</i>;\n};"
TSX_USED = 'const Page = () => <Hint text="a" />;\n\nexport default Page;'
STUBBED = "def area(r):\n    # ... as above ..."
PATCH = "--- a/area.r\n+++ b/area.r\n@@ -1 +1 @@\n-area <- 1\n+area <- function(r) 3 * r * r"
ASSEMBLER = "//start\n\tmov x0, #1\n\tb.eq out\n\tbl next\nout:\n\tret"
PAGE = "<html>\n<body>\n<p>Hello</p>\n</body>\n</html>"
SCRIPT = "<script>\nlet x = 1;\n</script>"
PARAGRAPHS = "<h1>A</h1>\n<ul>\n<li>x = 1</li>\n</ul>"
DETAILS = f"<details>\n<summary>Area</summary>\n\n```\n{WHOLE}\n```\n</details>"
NESTED_MARKS = f"<response>\n<explanation>Pi.</explanation>\n<code>\n{AREA}\n</code>\n</response>"
HARMONY = (
    f"<|channel|>analysis<|message|>Try {DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>"
)
ARTIFACT = f'<antArtifact identifier="area" language="python">\n{AREA}\n</antArtifact>'
TOOL_CALL = '<tool_call>\n{"name": "write"}\n</tool_call>'
SAMPLES = "Input: [1, 1, 2]\nOutput: [1, 2]"
FENCE_IN_STRING = 'text = "```"\nprint("python" + text)'
RULER = "-" * 40
WORDS = "It counts each of the words."


def fenced(tag: str, code: str, marks: str = "```") -> str:
    return f"{marks}{tag}\n{code}\n{marks}"


def indented(text: str, by: str) -> str:
    return re.sub("^(?=.)", by, text, flags=re.MULTILINE)


def lines(*parts: str) -> str:
    return "\n".join(parts)


ONE_BLOCK = [
    ("sentences around", lines("Here:", "", fenced("python", PYTHON), "", "It sorts."), PYTHON),
    ("no tag", fenced("", RUST), RUST),
    ("like code before", lines("print it:", fenced("", AREA)), AREA),
    ("a word before", lines("Solution:", fenced("", AREA)), AREA),
    ("wrong tag", fenced("text", CSHARP), CSHARP),
    ("blank before the fence", f" \n ```r\n{R}\n ```", R),
    ("windows newlines", fenced("lua", LUA).replace("\n", "\r\n"), LUA),
    ("white space in it stays", "```r\nx <- 1  \n\n\n\ty <- 2\n```", "x <- 1  \n\n\n\ty <- 2"),
    ("its example of usage stays", fenced("python", USED), USED),
    ("a transcript stays", fenced("python", REPL), REPL),
    ("attributes on the fence line", f'```python title="a.py"\n{PYTHON}\n```', PYTHON),
    ("tildes", fenced("julia", JULIA, "~~~"), JULIA),
    ("a longer fence", fenced("python", QUOTES, "````"), QUOTES),
    ("a fence in a string in it", fenced("python", FENCE_IN_STRING), FENCE_IN_STRING),
    ("an indented fence in it", fenced("python", NESTED), NESTED),
    ("a fence behind a tab in it", fenced("go", TABBED), TABBED),
    ("a quoted fence in it", fenced("go", TABBED.replace("\t", "> ")), TABBED.replace("\t", "> ")),
    ("a fence with a tag in it", lines(fenced("python", PROMPT), "Done."), PROMPT),
    ("in a list", lines("1. So:", "", indented(fenced("", PYTHON), "   "), "2. Run it."), PYTHON),
    ("behind a list marker", f"- {indented(fenced('lua', LUA), '  ')[2:]}", LUA),
    ("in a quote", indented(fenced("racket", RACKET), "> "), RACKET),
    ("dedented like its fence", "  ```\n      a = 1\n    b = 2\n  ```", "    a = 1\n  b = 2"),
    ("in a markdown block", fenced("markdown", lines("# Area", fenced("py", AREA), "Done")), AREA),
    ("in a fence twice", fenced("", fenced("lua", LUA)), LUA),
    ("a markdown block without one", fenced("markdown", "# Area\n"), "# Area"),
    ("indented less than its fence", f"   ```python\n{PYTHON}\n   ```", PYTHON),
]
ODD_FENCES = [
    ("unclosed", f"Here:\n```fortran\n{FORTRAN}", FORTRAN),
    ("unclosed, no tag", f"```\n{FORTRAN}", FORTRAN),
    ("unclosed after a command", lines(fenced("sh", "cargo new g"), "```rust", RUST), RUST),
    ("stray fence before prose", lines(fenced("", SQL), "```", "This lists adults. " * 9), SQL),
    ("closing fence only", lines(PYTHON, "```", "", "This takes the middle one."), PYTHON),
    ("closing fence behind code", f"```lua\n{LUA}```", LUA),
    ("closing fence behind code, then words", f"```lua\n{LUA}```\n{WORDS}", LUA),
    ("closing fence before a stop", lines("```r", R, "```.", "Bye."), R),
    ("closing fence before words", lines("```r", R, "``` and that is all.", "Bye."), R),
    ("opening fence behind a sentence", f"Here it is:```python\n{PYTHON}\n```", PYTHON),
    ("opening fence behind a sentence, no tag", f"Here it is: ```\n{PYTHON}\n```", PYTHON),
    ("code on the fence line", f"```julia {JULIA}\n```", JULIA),
    ("code on the fence line, no tag", f"```{AREA}\n```", AREA),
]
MARKS = [
    ("<reasoning>", "</reasoning>"),
    ("<Thought>", "</Thought>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|><|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|im_start|>think", "<|im_start|>answer\n"),
]
PARTS = [
    ("<plan>", "</plan>"),
    ('<Rationale lang="en">', "</Rationale>"),
    ("[STEPS]", "[/STEPS]"),
    ("<problem>P</problem><inner_voice>", "</inner_voice>"),
]
REASONING = [
    ("closed", lines("<think>", fenced("", "draft = 1"), "</think>", fenced("lua", LUA)), LUA),
    ("thinking", f"<thinking>Sort.</thinking>\n{PYTHON}", PYTHON),
    ("not opened", lines("Sort it.", fenced("", "draft = 1"), "</think>", PYTHON), PYTHON),
    ("not closed", lines("<think>", "So:", fenced("python", PYTHON)), None),
    *((mark, lines(mark, fenced("", DRAFT), end, fenced("", AREA)), AREA) for mark, end in MARKS),
    *((f"{mark}, no fence", f"{mark}\nSort it.{end}{AREA}", AREA) for mark, end in MARKS),
    *((f"{mark}, not closed", lines(mark, fenced("", DRAFT)), None) for mark, _ in MARKS),
    *((mark, lines(mark, fenced("", DRAFT), end, fenced("", AREA)), AREA) for mark, end in PARTS),
    *((f"{mark}, no fence", f"{mark}\nSort it.{end}{AREA}", AREA) for mark, end in PARTS),
    ("after words", lines("Sure.", "<plan>", fenced("", DRAFT), "</plan>", AREA), AREA),
    ("then an answer in marks", f"<plan>Sort.</plan>[PYTHON]\n{AREA}\n[/PYTHON]", AREA),
    ("markup is no reasoning", PARAGRAPHS, PARAGRAPHS),
    ("nor are details", lines(DETAILS, fenced("", "area(2)")), WHOLE),
    ("two in each other", f"<thinking>a<reflection>b</reflection></thinking>{AREA}", AREA),
    ("harmony", f"{HARMONY}So:\n{fenced('py', AREA)}<|return|>", AREA),
    ("empty", f"<think>\n\n</think>\n\n{fenced('lua', LUA)}", LUA),
    ("a call of a tool", lines(TOOL_CALL, "", fenced("lua", LUA)), LUA),
    ("a leak without marks", lines("thought", "I count them.", "", fenced("lua", LUA)), LUA),
    ("twice", lines("<think>a</think>Wait.", "<think>", fenced("", DRAFT), "</think>", AREA), AREA),
    ("the second not closed", lines("<think>a</think>", "Wait.", "<think>", AREA), None),
    ("attributes", f'<think effort="low">So.</think>{AREA}', AREA),
    ("after words, not closed", lines("Sure.", "<thought>", fenced("", DRAFT)), None),
    ("mention behind the program", lines(fenced("", AREA), "Cut at the </think> mark."), AREA),
    ("markup is none", PAGE, PAGE),
    ("it names its tag", lines("<think>", "`</think>`", "```", "</think>", RACKET), RACKET),
    ("a program names the tag", lines("This does it.", fenced("python", STRIP), "Bye."), STRIP),
    ("an unfenced program names the tag", STRIP, STRIP),
]
SEVERAL_BLOCKS = [
    ("command before", lines(fenced("bash", "dotnet new console"), fenced("cs", CSHARP)), CSHARP),
    ("data before", lines(fenced("json", DATA), fenced("js", JAVASCRIPT)), JAVASCRIPT),
    ("bash script", lines(fenced("bash", BASH), fenced("", "0 3 * * * lower.sh *.TXT")), BASH),
    ("install with its tag", lines(fenced("r", "pip install r"), fenced("r", R)), R),
    ("placeholder", lines(fenced("lua", "-- your code here"), fenced("lua", LUA)), LUA),
    ("longer output", lines(fenced("haskell", HASKELL), fenced("", "[[1]] " * 99)), HASKELL),
    ("longer calls", lines(fenced("js", JAVASCRIPT), fenced("js", "half(1);\n" * 9)), JAVASCRIPT),
    ("input before", lines(fenced("python", "xs = [3, 1, 2]"), fenced("python", WHOLE)), WHOLE),
    ("tests", lines(fenced("", AREA), "### Tests", "Run them:", fenced("", TESTS)), AREA),
    ("template", lines("The syntax:", fenced("sql", TEMPLATE), "So:", fenced("sql", SQL)), SQL),
    ("draft in another language", lines("C:", fenced("c", C_DRAFT), fenced("rust", RUST)), RUST),
    ("pseudocode", lines(fenced("", f"function {RUST}"), "So:", fenced("rust", RUST)), RUST),
    ("another way", lines(fenced("python", AREA), "Or:", fenced("python", f"{AREA} * 1.0")), AREA),
    ("refactored", lines("Yours:", fenced("", AREA), "Refactored code:", fenced("", WHOLE)), WHOLE),
    ("longer examples", lines(fenced("r", R), "Examples:", fenced("r", "rescale(1:3)\n" * 9)), R),
    ("data, then a command", lines("In", fenced("", "a,b\n" * 9), fenced("sh", FIND)), FIND),
    ("final", lines(fenced("python", AREA), "Final version:", fenced("python", PYTHON)), PYTHON),
    ("final, said on its line", lines(fenced("", AREA), f"Final:```\n{PYTHON}\n```"), PYTHON),
    ("longer data", lines(fenced("sql", SQL), "Result:", fenced("json", DATA)), SQL),
    ("small, then large", lines(fenced("r", "f <- function() 1"), fenced("r", R * 2)), R * 2),
    ("pieces, then the whole", lines(*(fenced("", x) for x in (AREA, VOLUME, WHOLE))), WHOLE),
    ("imports, then pieces", lines(*(fenced("", x) for x in (IMPORT, AREA, VOLUME))), JOINED),
    ("samples first", lines("From", fenced("", SAMPLES), "we get", fenced("", SQL)), SQL),
    ("tests by file", lines("a.py", fenced("py", WHOLE), "t.py", fenced("py", TESTS[:50])), WHOLE),
    ("three times", lines(*[fenced("lua", LUA)] * 3), LUA),
    (
        "cells",
        lines("Cell 1", fenced("", IMPORT), "Cell 2", fenced("", AREA)),
        f"{IMPORT}\n\n{AREA}",
    ),
    ("its repair", lines(fenced("", DRAFT), "Wait, pi is missing. So:", fenced("", AREA)), AREA),
    ("the given code", lines(fenced("", DRAFT), "To fix it, use pi:", fenced("", AREA)), AREA),
    ("repair, said before", lines(fenced("", DRAFT), "A mistake.", "So:", fenced("", AREA)), AREA),
    ("repair, a line", lines(fenced("", "x = 1"), "It should be:", fenced("", "x = 2")), "x = 2"),
    ("no repair", lines(fenced("", REPAIRED), "A rough form:", fenced("", DRAFT)), REPAIRED),
    ("stub called full", lines(fenced("", WHOLE), "Full:", fenced("", STUBBED)), WHOLE),
    ("component, then its use", lines(fenced("tsx", TSX), "So:", fenced("tsx", TSX_USED)), TSX),
    ("use in the other dialect", lines(fenced("tsx", TSX), "So:", fenced("ts", TSX_USED)), TSX),
    ("general form", lines("The general form is:", fenced("", "mv A B"), fenced("", FIND)), FIND),
    ("template by name", lines("Template:", fenced("", "mv A B"), fenced("", FIND)), FIND),
    ("settings", lines(".env:", fenced("env", "A=1\nB=2"), fenced("js", "go(1)")), "go(1)"),
    ("syntax in passing", lines("In syntax of C:", fenced("", AREA), fenced("", DRAFT)), AREA),
    ("patch", lines(fenced("diff", PATCH), "So you can call:", fenced("r", "x <- area(2)")), PATCH),
    ("other file", lines(fenced("dockerfile", "FROM a\nRUN b"), fenced("js", "go(1)")), "go(1)"),
    ("one for each question", lines("Q1.", fenced("", AREA), "Q2.", fenced("", LUA)), QUESTIONS),
    ("steps", lines("Step 1:", fenced("", LUA), "Step 2:", fenced("", AREA)), LUA),
    ("imports, then the whole", lines(fenced("", IMPORT), fenced("", JOINED)), JOINED),
]
NO_PROGRAM = [
    ("nothing", "", None),
    ("refusal", "I'm sorry, but I can't help with that.", None),
    ("code spans in a list", "- Use `xs.sort()` to sort.\n- Use `sorted(xs)` for a copy.", None),
    ("code spans only", "Use `sorted(xs)` and take `[-1]`.", None),
    ("empty block", "Here:\n```python\n```", None),
    ("lone install command", fenced("bash", "# once:\n$ pip install requests"), None),
    ("but not any command", fenced("bash", FIND), FIND),
    ("lone placeholder", lines("Put it here:", "```", "# your code here", "...", "```"), None),
    ("but not a stub", fenced("python", STUB), STUB),
    ("look around first", lines("First I look.", fenced("sh", "tree src"), "Fine?"), None),
    ("sample of data", lines("Example of the input:", fenced("json", DATA), "It fails."), None),
    ("but not any data", lines("The configuration:", fenced("json", DATA)), DATA.strip()),
]
NO_FENCE = [
    ("C#", CSHARP, CSHARP),
    ("Lua", LUA, LUA),
    ("R", R, R),
    ("Julia", JULIA, JULIA),
    ("Racket", RACKET, RACKET),
    ("Fortran", FORTRAN, FORTRAN),
    ("Bash", BASH, BASH),
    ("SQL", SQL, SQL),
    ("Rust, blank before", f" {RUST}\n", RUST),
    ("sentences in a docstring", DOCSTRING, DOCSTRING),
    ("sentences in a block comment", BLOCK_COMMENT, BLOCK_COMMENT),
    ("sentences in comments", COMMENTED, COMMENTED),
    ("introduction", lines("You want an area.", "", "Here is the code:", "", WHOLE), WHOLE),
    ("sentence after it", lines(WHOLE, "", "This works for any radius."), WHOLE),
    ("prose around it", lines("Sum them with a loop:", "", LUA, "", WORDS), LUA),
    ("list after it", lines("So:", "", LUA, "", "- It counts.", "1. It returns."), LUA),
    ("in rulers", lines("This is it.", RULER, "count.lua", RULER, LUA, RULER, "", WORDS), LUA),
    ("in other rulers", lines("This is it.", "─" * 9, LUA, "─" * 9, "", WORDS), LUA),
    ("two ways", lines("<think>So.</think>One way:", SQL, WORDS, "Another way:", SQL[:-9]), SQL),
    ("prose in other letters", lines("Вот решение:", "", LUA, "", "Она считает слова."), LUA),
    ("words without a stop", lines("When `n` is zero, the loop never ends and it fails"), None),
    ("a word before it", lines("Sure!", "", LUA), LUA),
    ("short words around it", lines("So:", "", LUA, "", "Note: it needs Lua 5."), LUA),
    ("name of a file", lines("This is it.", "File: src/a.lua", "", LUA, "", WORDS), LUA),
    ("headings", lines("# Words", "", "I count them.", "", LUA, "", "## Cost", "", WORDS), LUA),
    ("token on its line", lines("Here:", "<|lua|>", LUA), LUA),
    ("span of code", lines("`lua`", LUA), LUA),
    ("its comments stay", lines("Like this:", "", f"# Area\n{AREA}", "", WORDS), f"# Area\n{AREA}"),
    ("special token", lines("I write it down:", "<tool_call>lua", LUA), LUA),
    ("span first", lines("```sketch```", LUA), LUA),
    ("closing fence, then an example", lines(WHOLE, "```", "area(2)", "```"), WHOLE),
    ("closing fence, then a tag", lines(WHOLE, "```", "Or:", fenced("py", "area(2)")), WHOLE),
    ("assembler", ASSEMBLER, ASSEMBLER),
    ("list of fragments", lines("Steps:", "1. x = f(a)", "2. y = g(x)", "   - z = h(y)"), None),
    ("sentences between", lines("Write this.", AREA, "Then write this.", VOLUME), None),
    ("titles", lines("**Area**", "", AREA, "", "**Use**", "", "print(area(2))"), None),
    ("steps", lines("Step 1: define it", AREA, "Step 2: call it", "print(area(2))"), None),
    ("sentence without a stop", lines("Sure, here is the function you want", "", AREA), AREA),
    ("plan", "1. Read the list\n2. Sort (quick sort)\n3. Print\n\n## Notes\n\n- stable", None),
]
TOKENS = [
    "<|im_end|>",
    "<|python_tag|>",
    "</s>",
    "[/INST]",
    "<end_of_turn>",
    "<eos>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
]
LEFT_OVERS = [
    ("answer", f"<answer>\n{AREA}\n</answer>", AREA),
    ("answer, cut off", f"<answer>\n{AREA}", AREA),
    ("answer with a fence", f"<answer>\n{fenced('py', AREA)}\n</answer>", AREA),
    ("code in prose", lines("Here it is:", f"<code>\n{AREA}\n</code>", "It is an area."), AREA),
    ("answer, then words", lines(f"<answer>\n{AREA}\n</answer>", "", WORDS), AREA),
    ("answer, then its use", lines(f"<answer>{AREA}</answer>", fenced("bash", "ls")), AREA),
    ("answer, then more", lines("<code>", fenced("", DRAFT), "</code>", fenced("", WHOLE)), DRAFT),
    ("code in a response", NESTED_MARKS, AREA),
    ("any marks, then its use", lines(f"<python>\n{AREA}\n</python>", fenced("bash", "ls")), AREA),
    ("a plan, then a lone mark", f"<plan>Sort.</plan>\n{AREA}\n</answer>", AREA),
    ("artifact", lines(ARTIFACT, "", "It is an area."), AREA),
    ("explanation, then code", f"<why>\nPi.\n</why>\n<code>\n{AREA}\n</code>", AREA),
    ("in a box", f"<|begin_of_box|>{fenced('py', AREA)}<|end_of_box|>", AREA),
    ("only the closing mark", f"{AREA}\n</answer>", AREA),
    ("closing mark behind a line", f"{AREA}</code>", AREA),
    ("closing mark before it", f"</solution>\n{AREA}", AREA),
    ("closing mark in a cut off block", f"<answer>\n```\n{AREA}\n[/ANSWER]", AREA),
    ("brackets", f"[PYTHON]\n{AREA}\n[/PYTHON]", AREA),
    ("a script element stays", SCRIPT, SCRIPT),
    *((f"{token} at the end", AREA + token, AREA) for token in TOKENS),
    *((f"{token} in a block", f"```py\n{AREA}{token}", AREA) for token in TOKENS),
    *((f"{token} at the beginning", token + AREA, AREA) for token in TOKENS),
    ("another turn", f"{AREA}<|im_end|>\n<|im_start|>user", AREA),
    ("a role", f"<|start_header_id|>assistant<|end_header_id|>\n\n{AREA}", AREA),
    ("a token in a string stays", 'end = "<|im_end|>"', 'end = "<|im_end|>"'),
    ("zero-width space", f"\u200b{fenced('py', AREA)[:-3]}\u200b```", AREA),
    ("a word joiner, soft hyphen", f"\u2060\xad{fenced('py', AREA)[:-3]}\u200d```", AREA),
    ("byte order mark", f"\ufeff{AREA}", AREA),
    ("carriage returns", fenced("py", AREA).replace("\n", "\r"), AREA),
]
RESPONSES = {
    f"{kind}: {name}": (response, program)
    for kind, rows in {
        "one block": ONE_BLOCK,
        "odd fences": ODD_FENCES,
        "reasoning": REASONING,
        "several blocks": SEVERAL_BLOCKS,
        "left over": LEFT_OVERS,
        "no program": NO_PROGRAM,
        "no fence": NO_FENCE,
    }.items()
    for name, response, program in rows
}


@pytest.mark.parametrize(("response", "program"), RESPONSES.values(), ids=RESPONSES)
def test_the_program_in(response, program):
    assert extract_code_from_markdown(response) == program


BOTH = f"{fenced('bash', BASH)}\n\nOr:\n\n{fenced('javascript', JAVASCRIPT)}"
TWO = f"{fenced('cs', CSHARP)}\n\nOr:\n\n{fenced('lua', LUA)}"


@pytest.mark.parametrize(
    ("lang", "response", "program"),
    [
        ("Bash", BOTH, BASH),
        ("JavaScript using Node 24", BOTH, JAVASCRIPT),
        ("C#", TWO, CSHARP),
        ("Lua /nothink", TWO, LUA),
        ("Fortran", TWO, extract_code_from_markdown(TWO)),
        ("Bash", fenced("bash", "git log | head"), "git log | head"),
        ("Lua", fenced("bash", "git log | head"), None),
    ],
)
def test_blocks_in_the_language_are_preferred(lang, response, program):
    assert extract_code_from_markdown(response, lang) == program


ODD_LINES = [
    "```",
    "```python",
    "    x = 1",
    "\treturn x",
    "> ~~~",
    "- ```",
    "# Usage:",
    "</think>",
]
LINES = st.lists(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
    | st.sampled_from(ODD_LINES)
).map("\n".join)


@given(LINES, st.sampled_from("`~"), st.sampled_from(["", "python", "c++", "text"]))
@example("```\nx\n```", "`", "python")
def test_any_program_comes_back_from_a_fence_longer_than_those_in_it(body, mark, tag):
    program = f"x = 1\n{body}\nprint(x)"
    longest = max(map(len, re.findall("`+|~+", program)), default=0)
    response = f"Here it is.\n\n{fenced(tag, program, mark * max(3, longest + 1))}\n\nIt prints x."
    assert extract_code_from_markdown(response) == program


@given(LINES, st.text())
def test_every_line_of_a_program_stood_in_the_response(response, lang):
    program = extract_code_from_markdown(response, lang) or ""
    assert all(line in response for line in program.split("\n"))


# Used at the start of a line, or of the text, only; all other expressions are searched for.
MATCHED = {
    *("CODE", "COMMAND", "COMMENT", "FENCE", "FENCE_BEHIND_WORDS"),
    *("IMPORT", "PART", "PLACEHOLDER", "PROSE", "KIND_OF_LINE"),
}
EXPRESSIONS = {
    name: value.match if name in MATCHED else value.search
    for name, value in vars(bcb_multipl_util).items()
    if isinstance(value, re.Pattern)
}
FENCE_UNITS = ["`", "~", "``` ", "```\n", "~~~\n", "> ", "- "]
TEXT_UNITS = [" ", "\n", "a", "a\n", "A b ", "A:\n", "é", "**", "Q1.\n", "# a\n", "# a\n\n"]
MARK_UNITS = ["<", "</", "<a>", "<a>a</a>", "[a]", "[/", "<|", "<|a|>", "<|think|>"]
MARK_UNITS += ["<think>", "</think>", "think", "</s>", "</a>\n", "<answer>", "answer"]
CODE_UNITS = ["(", "= ", '"""', '"""\n', "/*\n", ";", "let x ", "def \n", "import a\n"]
UNITS = FENCE_UNITS + TEXT_UNITS + MARK_UNITS + CODE_UNITS
FRAMES = ["{}", "x{}", "```py\n{}\n```\nx\n{}```", "<{}", "<a>{}</a>", "```{}`", '"""{}x']


def seconds(call, text: str) -> float:
    started = time.process_time()
    call(text)
    return time.process_time() - started


def growth(call, frame: str, unit: str) -> float:
    """How many times as long 8 times the text takes: 8 in linear, 64 in quadratic time."""
    few, many = (frame.replace("{}", unit * (n // len(unit))) for n in (1000, 8000))
    once, longer = min(seconds(call, few) for _ in range(3)), float("inf")
    for _ in range(5):  # what disturbs a measurement does not disturb all of them
        longer = min(longer, seconds(call, many))
        if longer < max(LINEAR * once, QUICK):
            return 0.0
    return longer / once


LINEAR = 24  # between the two
QUICK = 0.01  # seconds of CPU time, which no quadratic time for 8,000 characters is
CALLS = {**EXPRESSIONS, "all": extract_code_from_markdown}


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_no_faster_than_a_run_of_anything(unit):
    for frame in FRAMES:
        for name, call in CALLS.items():
            assert growth(call, frame, unit) < LINEAR, (name, frame)


def test_a_megabyte_of_everything_takes_seconds():
    hostile = "".join(unit * (1_000_000 // len(UNITS) // len(unit)) for unit in UNITS)
    for name, call in CALLS.items():
        assert seconds(call, hostile) < 9, name
