"""temporary"""
import re
def extract_code_from_markdown(markdown, lang=None):
    m = re.search(r"^```[^\n]*\n(.*?)^```", markdown, re.M | re.S)
    return m[1].rstrip("\n") if m else None
