"""Which program is found in a response: one row for each rule, and its opposite beside it."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
JOINED = f"{IMPORT}\n\n{AREA}\n\n{VOLUME}"


def fenced(tag: str, code: str, marks: str = "```") -> str:
    return f"{marks}{tag}\n{code}\n{marks}"


def indented(text: str, by: str) -> str:
    return re.sub("^(?=.)", by, text, flags=re.MULTILINE)


def lines(*parts: str) -> str:
    return "\n".join(parts)


ONE_BLOCK = [
    ("sentences around", lines("Here:", "", fenced("python", PYTHON), "", "It sorts."), PYTHON),
    ("no tag", fenced("", RUST), RUST),
    ("wrong tag", fenced("text", CSHARP), CSHARP),
    ("blank before the fence", f" \n ```r\n{R}\n ```", R),
    ("windows newlines", fenced("lua", LUA).replace("\n", "\r\n"), LUA),
    ("white space in it stays", "```r\nx <- 1  \n\n\n\ty <- 2\n```", "x <- 1  \n\n\n\ty <- 2"),
    ("its example of usage stays", fenced("python", USED), USED),
    ("a transcript stays", fenced("python", REPL), REPL),
    ("attributes on the fence line", f'```python title="a.py"\n{PYTHON}\n```', PYTHON),
    ("tildes", fenced("julia", JULIA, "~~~"), JULIA),
    ("a longer fence", fenced("python", QUOTES, "````"), QUOTES),
    ("an indented fence in it", fenced("python", NESTED), NESTED),
    ("a fence behind a tab in it", fenced("go", TABBED), TABBED),
    ("a quoted fence in it", fenced("go", TABBED.replace("\t", "> ")), TABBED.replace("\t", "> ")),
    ("a fence with a tag in it", lines(fenced("python", PROMPT), "Done."), PROMPT),
    ("in a list", lines("1. So:", "", indented(fenced("", PYTHON), "   "), "2. Run it."), PYTHON),
    ("behind a list marker", f"- {indented(fenced('lua', LUA), '  ')[2:]}", LUA),
    ("in a quote", indented(fenced("racket", RACKET), "> "), RACKET),
    ("dedented like its fence", "  ```\n      a = 1\n    b = 2\n  ```", "    a = 1\n  b = 2"),
    ("in a markdown block", fenced("markdown", lines("# Area", fenced("py", AREA), "Done")), AREA),
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
    ("closing fence before a stop", lines("```r", R, "```.", "Bye."), R),
    ("closing fence before words", lines("```r", R, "``` and that is all.", "Bye."), R),
    ("opening fence behind a sentence", f"Here it is:```python\n{PYTHON}\n```", PYTHON),
    ("opening fence behind a sentence, no tag", f"Here it is: ```\n{PYTHON}\n```", PYTHON),
    ("code on the fence line", f"```julia {JULIA}\n```", JULIA),
    ("code on the fence line, no tag", f"```{AREA}\n```", AREA),
]
REASONING = [
    ("closed", lines("<think>", fenced("", "draft = 1"), "</think>", fenced("lua", LUA)), LUA),
    ("thinking", f"<thinking>Sort.</thinking>\n{PYTHON}", PYTHON),
    ("not opened", lines("Sort it.", fenced("", "draft = 1"), "</think>", PYTHON), PYTHON),
    ("not closed", lines("<think>", "So:", fenced("python", PYTHON)), None),
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
    ("input before", lines(fenced("python", "xs = [3, 1, 2]"), fenced("python", AREA)), AREA),
    ("tests", lines(fenced("", AREA), "### Tests", "Run them:", fenced("", TESTS)), AREA),
    ("template", lines("The syntax:", fenced("sql", TEMPLATE), "So:", fenced("sql", SQL)), SQL),
    ("draft in another language", lines("C:", fenced("c", C_DRAFT), fenced("rust", RUST)), RUST),
    ("pseudocode", lines(fenced("", f"function {RUST}"), "So:", fenced("rust", RUST)), RUST),
    ("another way", lines(fenced("python", AREA), "Or:", fenced("python", f"{AREA} * 1.0")), AREA),
    ("final", lines(fenced("python", AREA), "Final version:", fenced("python", PYTHON)), PYTHON),
    ("final, said on its line", lines(fenced("", AREA), f"Final:```\n{PYTHON}\n```"), PYTHON),
    ("longer data", lines(fenced("sql", SQL), "Result:", fenced("json", DATA)), SQL),
    ("small, then large", lines(fenced("r", "f <- function() 1"), fenced("r", R * 2)), R * 2),
    ("pieces, then the whole", lines(*(fenced("", x) for x in (AREA, VOLUME, WHOLE))), WHOLE),
    ("imports, then pieces", lines(*(fenced("", x) for x in (IMPORT, AREA, VOLUME))), JOINED),
    ("imports, then the whole", lines(fenced("", IMPORT), fenced("", JOINED)), JOINED),
]
NO_PROGRAM = [
    ("nothing", "", None),
    ("refusal", "I'm sorry, but I can't help with that.", None),
    ("code spans only", "Use `sorted(xs)` and take `[-1]`.", None),
    ("empty block", "Here:\n```python\n```", None),
    ("lone install command", fenced("bash", "# once:\n$ pip install requests"), None),
    ("but not any command", fenced("bash", FIND), FIND),
    ("lone placeholder", lines("Put it here:", "```", "# your code here", "...", "```"), None),
    ("but not a stub", fenced("python", STUB), STUB),
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
    ("sentence after it", lines(WHOLE, "", "This works for any radius."), None),
    ("sentences between", lines("Write this.", AREA, "Then write this.", VOLUME), None),
    ("titles", lines("**Area**", "", AREA, "", "**Use**", "", "print(area(2))"), None),
    ("steps", lines("Step 1: define it", AREA, "Step 2: call it", "print(area(2))"), None),
    ("sentence without a stop", lines("Sure, here is the function you want", "", AREA), None),
    ("plan", "1. Read the list\n2. Sort (quick sort)\n3. Print\n\n## Notes\n\n- stable", None),
]
RESPONSES = {
    f"{kind}: {name}": (response, program)
    for kind, rows in {
        "one block": ONE_BLOCK,
        "odd fences": ODD_FENCES,
        "reasoning": REASONING,
        "several blocks": SEVERAL_BLOCKS,
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


FENCE_UNITS = ["`", "~", "``` ", "```\n", "```py\n", "~~~\n", "x```\n", "> ", "- ", "1. "]
TEXT_UNITS = [" ", "\n", "a ", "a\n", "A b ", "A:\n", "<think>", "</think>", "`</think>"]
CODE_UNITS = ["(", ")", "=(", "= ", '"""', "/*", "let x ", "def ", "f(a) ", "import a\n"]


def cpu_seconds(unit: str, length: int) -> float:
    hostile = unit * (length // len(unit))
    started = time.process_time()
    for response in (hostile, f"x\n{hostile}```", f"```py\n{hostile}\n```\n{fenced('py', 'x')}"):
        extract_code_from_markdown(response)
    return time.process_time() - started


@pytest.mark.parametrize("unit", FENCE_UNITS + TEXT_UNITS + CODE_UNITS)
def test_hostile_input_takes_time_in_proportion_to_its_length(unit):
    # 4 times is proportional, 16 the square, which takes minutes for a megabyte.
    assert cpu_seconds(unit, 200_000) < 10 * cpu_seconds(unit, 50_000) + 0.5
